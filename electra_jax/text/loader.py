"""Batches of rows: shuffled, a share for each host, read ahead, resumed by the number of a step."""

import queue
import threading
from collections.abc import Callable, Iterator

import numpy as np
from jaxtyping import Integer

from electra_jax.errors import UserError
from electra_jax.text.order import shuffled
from electra_jax.text.rows import Rows

# Rows read at once: what each call costs, whoever makes it, is then shared by many small batches.
_ROWS_AT_ONCE = 4096


def batches(
    rows: Rows,
    batch_size: int,
    seed: int,
    start_step: int,
    num_steps: int,
    share: Integer[np.ndarray, " share"] | None = None,
    prefetch: int = 8,
) -> Iterator[Integer[np.ndarray, "share length"]]:
    """The batches of steps start_step … num_steps − 1, or a process's share of each.

    Step s takes positions [s·batch_size, (s+1)·batch_size) of the endless shuffled order; `share` says which of a
    batch's rows are read here, None all of them. `prefetch` batches at least are read ahead, by grain where it is
    installed.
    Raises UserError where there is no row.
    """
    if not len(rows):
        raise UserError("the data set has no rows to train on: prepare one with more text")
    within = np.arange(batch_size, dtype=np.uint64) if share is None else share.astype(np.uint64)
    steps_at_once = max(1, _ROWS_AT_ONCE // len(within))
    total = max(0, num_steps - start_step)

    def slab(number: int) -> np.ndarray:
        first = start_step + int(number) * steps_at_once
        steps = np.arange(first, min(first + steps_at_once, num_steps), dtype=np.uint64)
        positions = (steps[:, None] * np.uint64(batch_size) + within).reshape(-1)
        found = rows.take(shuffled(positions, len(rows), seed))
        return found.reshape(len(steps), len(within), rows.length)

    slabs = -(-total // steps_at_once)
    for found in _read_ahead(slab, slabs, 1 + prefetch // steps_at_once):
        yield from found


def fixed_batches(
    rows: Rows, batch_size: int, max_rows: int | None = None, share: Integer[np.ndarray, " share"] | None = None
) -> Iterator[Integer[np.ndarray, "share length"]]:
    """The first `max_rows` rows in their order, the last batch filled up with rows of padding (id 0).

    `share` as in `batches`.
    """
    count = len(rows) if max_rows is None else min(max_rows, len(rows))
    within = np.arange(batch_size) if share is None else share
    for start in range(0, count, batch_size):
        indices = start + within
        batch = np.zeros((len(within), rows.length), rows.dtype)
        batch[indices < count] = rows.take(indices[indices < count])
        yield batch


def _read_ahead(make: Callable[[int], np.ndarray], count: int, ahead: int) -> Iterator[np.ndarray]:
    try:
        import grain
    except ImportError:
        return _read_ahead_in_thread(make, count, ahead)
    options = grain.ReadOptions(num_threads=1, prefetch_buffer_size=ahead)
    return iter(grain.MapDataset.range(count).map(make).to_iter_dataset(options)) if count else iter(())


def _read_ahead_in_thread(make: Callable[[int], np.ndarray], count: int, ahead: int) -> Iterator[np.ndarray]:
    """What grain does, for machines that lack it: one thread fills a bounded queue."""
    waiting: queue.Queue[np.ndarray | BaseException] = queue.Queue(ahead)
    stopped = threading.Event()

    def put(item: np.ndarray | BaseException) -> bool:
        while not stopped.is_set():
            try:
                waiting.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def fill() -> None:
        try:
            for number in range(count):
                if not put(make(number)):
                    return
        except BaseException as error:
            put(error)

    thread = threading.Thread(target=fill, name="rows", daemon=True)
    thread.start()
    try:
        for _ in range(count):
            item = waiting.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        stopped.set()
        thread.join()
