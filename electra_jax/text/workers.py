"""The part of `prepare` that runs in worker processes, and how they are started and ended."""

import gc
import multiprocessing
import os
import random
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain, islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np

from electra_jax.config import PrepareConfig
from electra_jax.errors import MachineError
from electra_jax.text import packing
from electra_jax.text.tokenizer import Tokenizer, load_tokenizer

T = TypeVar("T")


@dataclass
class Counts:
    """What a part of the text holds. `tokens` are all but padding; `content_tokens` has no [CLS] and [SEP]."""

    documents: int = 0
    rows: int = 0
    tokens: int = 0
    content_tokens: int = 0
    unknown_tokens: int = 0
    lost_tokens: int = 0  # cut off by the reference's way of packing
    words: int = 0  # what white space separates
    characters: int = 0
    bytes: int = 0  # of the text in UTF-8

    def add(self, other: "Counts") -> None:
        for name, value in asdict(other).items():
            setattr(self, name, getattr(self, name) + value)


class Block(NamedTuple):
    """Documents of one split, enough to keep a worker busy for half a second."""

    number: int
    split: str
    documents: list[str]


class Packed(NamedTuple):
    """What became of a block: rows [rows, length] and how often each token stands in them [vocab]."""

    split: str
    rows: np.ndarray
    unigram: np.ndarray
    counts: Counts


def encode_and_pack(block: Block, tokenizer: Tokenizer, config: PrepareConfig) -> Packed:
    """The rows of a block. They depend on the block alone, never on who makes them or when."""
    num_lines = np.array([document.count("\n") + 1 for document in block.documents])
    lines = [line for document in block.documents for line in document.split("\n")]
    encoded = tokenizer.encode_batch(lines)
    line_lengths = np.fromiter(map(len, encoded), np.int64, len(encoded))
    ids = np.fromiter(chain.from_iterable(encoded), np.uint32, int(line_lengths.sum()))
    special, length = tokenizer.special, config.length
    if config.packing == "isolated":
        starts = np.cumsum(num_lines) - num_lines
        rows = packing.isolated(ids, np.add.reduceat(line_lengths, starts), length, special)
    elif config.packing == "concat":
        rows = packing.concat(ids, length, special)
    else:
        rng = random.Random(f"{config.seed}/{block.number}")
        rows = packing.reference(ids, line_lengths, num_lines, length, special, rng)
    unigram = np.bincount(rows.reshape(-1), minlength=tokenizer.vocab_size)
    tokens = rows.size - int(unigram[special.pad])
    unigram[list(special)] = 0
    content = int(unigram.sum())
    counts = Counts(
        documents=len(block.documents),
        rows=len(rows),
        tokens=tokens,
        content_tokens=content,
        unknown_tokens=int(unigram[tokenizer.unk]),
        lost_tokens=len(ids) - content,
        words=sum(len(line.split()) for line in lines),
        characters=sum(map(len, block.documents)),
        bytes=sum(len(document.encode()) for document in block.documents),
    )
    kept = np.uint16 if tokenizer.vocab_size < 65536 else np.uint32
    return Packed(block.split, rows.astype(kept), unigram, counts)


def in_order(
    blocks: Iterator[Block], folder: Path, config: PrepareConfig, workers: int
) -> Generator[Packed, None, None]:
    """What becomes of each block, in their order; a few blocks a worker are under way at a time.

    `folder` holds the tokenizer. Raises MachineError where a worker process dies.
    """
    first = list(islice(blocks, 3))
    if workers == 1 or len(first) < 3:  # so little is done before the processes have started
        tokenizer = load_tokenizer(folder)
        for block in chain(first, blocks):
            yield encode_and_pack(block, tokenizer, config)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, _start_worker, (folder, config)) as pool:
        waiting: deque[Future[Packed]] = deque()
        try:
            for block in chain(first, blocks):
                with _interrupts_for_the_parent():
                    waiting.append(pool.submit(_encode_and_pack, block))
                if len(waiting) > workers + 1:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        except BrokenProcessPool:
            raise MachineError(
                "a worker process died, most likely for want of memory: run this again with fewer workers"
            ) from None
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def in_own_process(function: Callable[..., None], *arguments: object) -> None:
    """Calls a function in a process that ends with this one, so that a long call inside a library can be ended.

    Raises what the function raises, and MachineError where the process dies.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_call, args=(sender, function, arguments), daemon=True)
    try:
        with _interrupts_for_the_parent():
            process.start()
        sender.close()
        error = receiver.recv()
        process.join()
    except EOFError:
        raise MachineError(
            "the process that trains the tokenizer died, most likely for want of memory: lower sample_mb"
        ) from None
    finally:
        if process.is_alive():
            process.kill()
            process.join()
        receiver.close()
    if error is not None:
        raise error


def _call(sender: Connection, function: Callable[..., None], arguments: tuple) -> None:
    _end_with_the_parent()
    try:
        function(*arguments)
        sender.send(None)
    except Exception as error:
        sender.send(error)


_here: tuple[Tokenizer, PrepareConfig] | None = None


def _start_worker(folder: Path, config: PrepareConfig) -> None:
    global _here
    _end_with_the_parent()
    gc.disable()  # hundreds of thousands of small lists and not a cycle among them: the search takes a third
    _here = load_tokenizer(folder), config


def _encode_and_pack(block: Block) -> Packed:
    assert _here is not None
    return encode_and_pack(block, *_here)


def _end_with_the_parent() -> None:
    """A parent killed outright can't end its workers; each watches for that itself."""

    def watch() -> None:
        parent = multiprocessing.parent_process()
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, name="parent", daemon=True).start()


@contextmanager
def _interrupts_for_the_parent() -> Iterator[None]:
    """Processes started in here never see Ctrl-C: the parent does, and ends them in good order."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
