"""A task's examples as rows: what is trained on, what is held out, and the lengths they are padded to."""

import hashlib
import json
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from electra_jax.finetune.batching import choose_buckets
from electra_jax.finetune.encoding import Encoded, encode_examples
from electra_jax.finetune.evaluation import HeldOut
from electra_jax.tasks.data import Data
from electra_jax.tasks.examples import Example
from electra_jax.text.tokenizer import Tokenizer

# What examples of all kinds hold that is learned from.
CONTENT = ("text", "pair", "label", "words", "tags", "question", "context", "answers", "is_impossible")
MOST_BUCKETS = 4  # row lengths, and so shapes compiled


class TaskRows(NamedTuple):
    """The rows of a task."""

    train: Encoded
    dev: list[HeldOut]
    test: list[HeldOut]  # measured once, at the end, and never chosen by
    buckets: tuple[int, ...]
    dev_buckets: tuple[int, ...]


def encode_task(data: Data, tokenizer: Tokenizer, length: int, by_length: bool) -> TaskRows:
    """The examples as rows. Without `by_length` all training rows are padded to the longest of them."""
    train = encode_examples(data.task, data.train, tokenizer, length, training=True)

    def held_out(name: str, found: list[Example]) -> HeldOut:
        return HeldOut(name, found, encode_examples(data.task, found, tokenizer, length, training=False))

    dev = [held_out(name if number else "", found) for number, (name, found) in enumerate(data.dev.items())]
    test = [held_out(name, found) for name, found in data.test.items()]
    lengths = np.array([len(row) for row in train.rows])
    dev_lengths = np.array([len(row) for part in dev + test for row in part.rows.rows])
    return TaskRows(
        train,
        dev,
        test,
        choose_buckets(lengths, MOST_BUCKETS if by_length else 1),
        choose_buckets(dev_lengths, MOST_BUCKETS),
    )


def fingerprint_of(data: Data) -> dict[str, str]:
    """A checksum of the training examples and one of the held-out ones, wherever they lie."""
    held_out = (example for part in (data.dev, data.test) for examples in part.values() for example in examples)
    return {"training examples": _digest(data.train), "held-out examples": _digest(held_out)}


def _digest(examples: Iterable[Example]) -> str:
    digest = hashlib.sha256()
    for example in examples:
        # By name, so that a further field of an example changes no checksum.
        held = {name: getattr(example, name) for name in CONTENT if hasattr(example, name)}
        digest.update(json.dumps(held, sort_keys=True).encode())
    return digest.hexdigest()
