"""Length buckets, the batches of a whole training, and rows padded to one shape.

All members of a fine-tuning step together: at each step they have the same row length, but their own rows.
"""

from typing import NamedTuple

import numpy as np
from jaxtyping import Int, Int32

from electra_jax.config import SpecialTokens
from electra_jax.finetune.encoding import Encoded
from electra_jax.text.order import shuffled

_ORDER = 2**63  # the seed of the order of batches, the same for all
_BUCKETS = 2**20  # buckets a seed has room for: each is shuffled by a seed of its own
# What an unfilled place of a batch, or of a row, has for a target.
_FILLERS: dict[str, tuple[type, int]] = {
    "label": (np.int32, 0),
    "score": (np.float32, 0),
    "tags": (np.int32, -1),
    "start": (np.int32, 0),
    "end": (np.int32, 0),
    "no_answer": (np.float32, 0),
}


class Plan(NamedTuple):
    """Batches: the row length and the rows of each step. -1 is a place without a row."""

    bucket: Int[np.ndarray, " steps"]
    rows: Int[np.ndarray, "steps batch"]


def choose_buckets(lengths: Int[np.ndarray, " n"], count: int = 4, multiple: int = 8) -> tuple[int, ...]:
    """At most `count` row lengths, multiples of `multiple`, that pad the rows least; the last holds the longest row.

    Dynamic programming over the lengths that occur; of equally good choices, one with the fewest buckets.
    """
    sizes, rows = np.unique(-(-lengths // multiple) * multiple, return_counts=True)
    before = np.concatenate([[0], np.cumsum(rows)])
    # [i, j]: the tokens of one bucket that holds the i-th to the j-th size.
    tokens = (before[None, 1:] - before[:-1, None]) * sizes.astype(np.float64)
    tokens[np.tril_indices(len(sizes), -1)] = np.inf
    # The least tokens of all sizes up to the j-th in one bucket, two, …, and where the last of these begins.
    least, begins = [tokens[0]], [np.zeros(len(sizes), np.int64)]
    for _ in range(1, min(count, len(sizes))):
        through = np.append(np.inf, least[-1][:-1])[:, None] + tokens
        least.append(through.min(0))
        begins.append(through.argmin(0))
    used = int(np.argmin([total[-1] for total in least])) + 1
    chosen: list[int] = []
    last = len(sizes) - 1
    for begin in reversed(begins[:used]):
        chosen.append(int(sizes[last]))
        last = int(begin[last]) - 1
    return tuple(reversed(chosen))


def plan_batches(
    lengths: Int[np.ndarray, " n"], buckets: tuple[int, ...], batch_size: int, epochs: float, seed: int
) -> Plan:
    """The batches of one member's training; of a last, broken epoch the first steps.

    Every epoch holds every row once. Rows that fill no batch of their bucket move up into the next larger one, so
    that at most one batch an epoch is not full. The seed says which rows meet, but the row lengths of the steps
    are the same for every seed. The numbers are fixed for ever (see text/order.py). With a single bucket,
    batches are drawn from all rows alike.
    """
    held = _bucket_of(lengths, buckets)
    own = [np.flatnonzero(held == number) for number in range(len(buckets))]
    found = [_epoch(own, batch_size, epoch, seed) for epoch in range(int(np.ceil(epochs)))]
    steps = max(1, round(epochs * len(found[0][0])))
    bucket = np.concatenate([numbers for numbers, _ in found])[:steps]
    return Plan(np.array(buckets)[bucket], np.concatenate([rows for _, rows in found])[:steps])


def _epoch(
    rows_of: list[np.ndarray], batch_size: int, epoch: int, seed: int
) -> tuple[Int[np.ndarray, " steps"], Int[np.ndarray, "steps batch"]]:
    """The numbers of the buckets, and the rows (given by bucket), of one epoch's batches."""
    numbers: list[int] = []
    batches = []
    left = np.zeros(0, np.int64)
    for number, own in enumerate(rows_of):
        rows = np.concatenate([left, own])
        rows = rows[_permutation(len(rows), epoch, seed * _BUCKETS + number)]
        full = len(rows) // batch_size * batch_size
        rows, left = rows[:full], rows[full:]
        if number == len(rows_of) - 1 and len(left):
            rows = np.concatenate([rows, left, np.full(batch_size - len(left), -1)])
        batches.append(rows.reshape(-1, batch_size))
        numbers += [number] * len(batches[-1])
    order = _permutation(len(numbers), epoch, _ORDER)
    return np.array(numbers)[order], np.concatenate(batches)[order]


def _permutation(size: int, epoch: int, seed: int) -> Int[np.ndarray, " size"]:
    return shuffled(np.arange(epoch * size, (epoch + 1) * size, dtype=np.uint64), size, seed) if size else np.arange(0)


def evaluation_batches(lengths: Int[np.ndarray, " n"], buckets: tuple[int, ...], batch_size: int) -> Plan:
    """Every row once, longest buckets first: what does not fit in memory shows at once."""
    held = _bucket_of(lengths, buckets)
    bucket: list[int] = []
    batches = []
    for number in reversed(range(len(buckets))):
        rows = np.flatnonzero(held == number)
        batches.append(np.pad(rows, (0, -len(rows) % batch_size), constant_values=-1).reshape(-1, batch_size))
        bucket += [buckets[number]] * len(batches[-1])
    return Plan(np.array(bucket, np.int64), np.concatenate(batches))


def _bucket_of(lengths: Int[np.ndarray, " n"], buckets: tuple[int, ...]) -> Int[np.ndarray, " n"]:
    if lengths.max() > buckets[-1]:
        raise ValueError(f"a row of {lengths.max()} tokens is in no bucket of {buckets}")
    return np.searchsorted(np.array(buckets), lengths)


class FlatRows(NamedTuple):
    """Rows one after the other, in arrays. After the last one comes `[CLS] [SEP]`, which stands for no row (-1)."""

    ids: Int32[np.ndarray, " tokens"]
    begins: Int[np.ndarray, " rows+1"]
    lengths: Int[np.ndarray, " rows+1"]
    targets: dict[str, np.ndarray]  # one a row, or, for tags, one a token


def flatten(encoded: Encoded, special: SpecialTokens) -> FlatRows:
    """The rows in the form that `collate` reads fast."""
    rows = [*encoded.rows, [special.cls, special.sep]]
    lengths = np.array([len(row) for row in rows])
    targets = {}
    for name, values in encoded.targets.items():
        dtype, filler = _FILLERS[name]
        targets[name] = (
            _joined([*values, [filler] * 2], dtype) if name == "tags" else np.array([*values, filler], dtype)
        )
    return FlatRows(_joined(rows, np.int32), np.cumsum(lengths) - lengths, lengths, targets)


def _joined(rows: list[list[int]], dtype: type) -> np.ndarray:
    return np.concatenate([np.array(row, dtype) for row in rows])


def collate(rows: FlatRows, numbers: Int[np.ndarray, "*b"], size: int) -> dict[str, np.ndarray]:
    """Batches of any shape: "ids" [*b size], padded with 0, "weight" [*b] (0 for no row), and the kind's targets.

    A place without a row (-1) has `[CLS] [SEP]`, which does no harm.
    """
    begins, lengths = rows.begins[numbers], rows.lengths[numbers]
    if lengths.max() > size:
        raise ValueError(f"a row of {lengths.max()} tokens does not fit into {size}")
    places = np.arange(size)
    inside = places < lengths[..., None]
    tokens = (begins[..., None] + places)[inside]
    batch = {"ids": _padded(rows.ids, tokens, inside, 0), "weight": (numbers >= 0).astype(np.float32)}
    for name, values in rows.targets.items():
        batch[name] = _padded(values, tokens, inside, -1) if name == "tags" else values[numbers]
    return batch


def _padded(values: np.ndarray, tokens: np.ndarray, inside: np.ndarray, filler: int) -> np.ndarray:
    found = np.full(inside.shape, filler, values.dtype)
    found[inside] = values[tokens]
    return found
