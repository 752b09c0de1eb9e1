from collections.abc import Callable, Iterator, Sequence
from importlib import import_module

import numpy as np
import pytest

from electra_jax.errors import UserError
from electra_jax.text import loader
from electra_jax.text.rows import Rows

Batches = Callable[..., Iterator[np.ndarray]]


def numbered(count: int, length: int = 8, shards: int = 3) -> Rows:
    """Rows whose first id is their number."""
    whole = np.zeros((count, length), np.uint16)
    whole[:, 0] = np.arange(count)
    return Rows(np.array_split(whole, shards), length, whole.dtype)


@pytest.fixture(params=["grain", "thread"])
def batches(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Batches:
    if request.param == "thread":
        monkeypatch.setitem(__import__("sys").modules, "grain", None)  # as where it is not installed
    else:
        import_module("grain")  # without it the loader would read by its thread, and this test the same twice
    return loader.batches


def ids(found: Iterator[np.ndarray]) -> list[list[int]]:
    return [batch[:, 0].tolist() for batch in found]


@pytest.mark.parametrize("rows_at_once", [1, 30, 4096])
def test_an_epoch_is_every_row_once(batches: Batches, rows_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "_ROWS_AT_ONCE", rows_at_once)
    found = ids(batches(numbered(60), 6, 0, 0, 20))
    assert len(found) == 20
    epochs = [np.ravel(found[:10]).tolist(), np.ravel(found[10:]).tolist()]
    assert all(sorted(epoch) == list(range(60)) for epoch in epochs)
    assert epochs[0] != epochs[1]


@pytest.mark.parametrize("start", [0, 1, 7, 19, 20, 25])
def test_resuming_continues_the_same_batches(batches: Batches, start: int) -> None:
    whole = ids(batches(numbered(50), 8, 5, 0, 20))
    assert ids(batches(numbered(50), 8, 5, start, 20)) == whole[start:]


@pytest.mark.parametrize("shares", [[range(8)], [range(4), range(4, 8)], [(0, 1, 4, 5), (2, 3, 6, 7)], [range(8)] * 2])
def test_processes_read_their_shares_of_each_batch(batches: Batches, shares: list[Sequence[int]]) -> None:
    whole = ids(batches(numbered(50), 8, 1, 2, 12))
    for share in shares:
        found = ids(batches(numbered(50), 8, 1, 2, 12, np.array(share)))
        assert found == [[batch[row] for row in share] for batch in whole]


def test_grain_and_the_thread_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    import_module("grain")
    with_grain = ids(loader.batches(numbered(1000), 16, 9, 3, 700))
    monkeypatch.setitem(__import__("sys").modules, "grain", None)
    assert ids(loader.batches(numbered(1000), 16, 9, 3, 700)) == with_grain


def test_leaving_early_leaves_no_thread_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    monkeypatch.setitem(__import__("sys").modules, "grain", None)
    monkeypatch.setattr(loader, "_ROWS_AT_ONCE", 8)
    found = loader.batches(numbered(50), 8, 1, 0, 10_000)
    next(found)
    found.close()  # type: ignore[attr-defined]
    assert not [thread for thread in threading.enumerate() if thread.name == "rows"]


def test_an_error_while_reading_ahead_reaches_the_reader(batches: Batches) -> None:
    class Gone(Rows):
        def take(self, indices: np.ndarray) -> np.ndarray:
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        list(batches(Gone([np.zeros((4, 8), np.uint16)], 8, np.dtype("u2")), 2, 0, 0, 3))


def test_errors() -> None:
    with pytest.raises(UserError, match="no rows"):
        next(loader.batches(numbered(0), 2, 0, 0, 1))


def test_fixed_batches_keep_the_order_and_pad_the_last() -> None:
    whole = np.arange(1, 11, dtype=np.uint16)[:, None] * np.ones((1, 8), np.uint16)
    rows = Rows([whole], 8, whole.dtype)
    found = list(loader.fixed_batches(rows, 4))
    assert [batch[:, 0].tolist() for batch in found] == [[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 0, 0]]
    assert [len(batch) for batch in loader.fixed_batches(rows, 4, 4)] == [4]
    shares = [list(loader.fixed_batches(rows, 4, 9, np.array(share))) for share in ((0, 1), (1, 3))]
    assert [b[:, 0].tolist() for b in shares[0]] == [[1, 2], [5, 6], [9, 0]]
    assert [b[:, 0].tolist() for b in shares[1]] == [[2, 4], [6, 8], [0, 0]]


def test_rows_are_numbered_across_shards() -> None:
    rows = numbered(10)
    with pytest.raises(IndexError):
        rows.take(np.array([10]))
    with pytest.raises(IndexError):
        rows.take(np.array([-1]))
    assert rows.take(np.array([9, 0, 4]))[:, 0].tolist() == [9, 0, 4]
    assert rows.take(np.array([], np.int64)).shape == (0, 8)
