from collections import Counter
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_jax.config import SpecialTokens
from electra_jax.finetune.batching import (
    Plan,
    choose_buckets,
    collate,
    evaluation_batches,
    flatten,
    plan_batches,
)
from electra_jax.finetune.encoding import Encoded

SPECIAL = SpecialTokens(pad=0, cls=1, sep=2, mask=3)
patient = settings(deadline=None)
row_lengths = st.lists(st.integers(2, 40), min_size=1, max_size=60).map(np.array)


def lengths_like_sentences(count: int) -> np.ndarray:
    """The lengths of texts as data sets have them: many short ones, a few long ones; no generator needed."""
    return 3 + (125 * (np.arange(count) * 0.618034 % 1) ** 3).astype(np.int64)


def tokens(lengths: np.ndarray, buckets: tuple[int, ...]) -> int:
    return sum(min(bucket for bucket in buckets if bucket >= length) for length in lengths.tolist())


@patient
@given(row_lengths, st.integers(1, 4), st.sampled_from([1, 3, 8]))
def test_no_other_buckets_pad_less(lengths: np.ndarray, count: int, multiple: int) -> None:
    found = choose_buckets(lengths, count, multiple)
    longest = -(-int(lengths.max()) // multiple) * multiple
    assert found == tuple(sorted(set(found)))
    assert found[-1] == longest
    assert all(bucket % multiple == 0 for bucket in found)
    sizes = [size for size in range(multiple, longest, multiple) if (lengths > size - multiple).any()]
    least = min(tokens(lengths, (*others, longest)) for used in range(count) for others in combinations(sizes, used))
    assert len(found) <= count
    assert tokens(lengths, found) == least


def test_buckets_are_as_few_as_the_lengths() -> None:
    assert choose_buckets(np.full(10, 17), 4) == (24,)
    assert choose_buckets(np.array([5, 9, 17]), 8) == (8, 16, 24)


def epochs_of(plan: Plan, steps: int) -> list[list[int]]:
    """The rows of each epoch of `steps` steps, in order."""
    return [
        [row for row in plan.rows[start : start + steps].ravel().tolist() if row >= 0]
        for start in range(0, len(plan.rows), steps)
    ]


@patient
@given(row_lengths, st.integers(1, 4), st.integers(1, 9), st.integers(1, 3), st.integers(0, 2**32), st.integers(0, 9))
def test_every_epoch_has_every_row_and_every_seed_the_same_lengths(
    lengths: np.ndarray, count: int, batch_size: int, epochs: int, seed: int, other: int
) -> None:
    buckets = choose_buckets(lengths, count)
    plan = plan_batches(lengths, buckets, batch_size, float(epochs), seed)
    steps = -(-len(lengths) // batch_size)  # no batch is broken but the last
    assert plan.rows.shape == (epochs * steps, batch_size)
    assert all(sorted(rows) == list(range(len(lengths))) for rows in epochs_of(plan, steps))
    for bucket, rows in zip(plan.bucket.tolist(), plan.rows, strict=True):
        assert bucket in buckets
        assert lengths[rows[rows >= 0]].max() <= bucket
        assert (rows >= 0).all() or bucket == buckets[-1]
    assert (plan_batches(lengths, buckets, batch_size, float(epochs), other).bucket == plan.bucket).all()
    again = plan_batches(lengths, buckets, batch_size, float(epochs), seed)
    assert (again.rows == plan.rows).all()


@pytest.mark.parametrize("count", [1, 4])
def test_seeds_and_epochs_have_batches_of_their_own(count: int) -> None:
    lengths = lengths_like_sentences(3001)
    buckets = choose_buckets(lengths, count)
    one, other = (plan_batches(lengths, buckets, 32, 2.0, seed) for seed in (0, 1))
    half = len(one.bucket) // 2
    meetings = [
        {frozenset(rows.tolist()) for rows in plan.rows[start : start + half]}
        for plan in (one, other)
        for start in (0, half)
    ]
    assert not set.intersection(*meetings)
    assert sum(map(len, meetings)) == len(set.union(*meetings))
    if count > 1:
        assert Counter(one.bucket[:half]) == Counter(one.bucket[half:])
        assert one.bucket[:half].tolist() != one.bucket[half:].tolist()
        # The lengths are mixed: neither end of an epoch is of one kind.
        assert len(set(one.bucket[:20].tolist())) > 1
        # Padding is little more than the buckets' own: the rest of each moves up.
        assert (one.bucket * 32).sum() <= 2 * (tokens(lengths, buckets) + 32 * sum(buckets))


def test_which_rows_move_up_is_up_to_the_seed() -> None:
    lengths = np.array([5] * 10 + [15] * 10)
    moved = Counter()
    for seed in range(200):
        plan = plan_batches(lengths, (8, 16), 4, 1.0, seed)
        assert Counter(plan.bucket.tolist()) == {8: 2, 16: 3}
        up = plan.rows[plan.bucket == 16]
        moved.update(up[(up >= 0) & (up < 10)].tolist())
    assert sum(moved.values()) == 200 * 2
    assert set(moved) == set(range(10))
    assert max(moved.values()) < 80


def test_a_broken_epoch_ends_at_its_step() -> None:
    lengths = lengths_like_sentences(320)
    buckets = choose_buckets(lengths)
    whole = plan_batches(lengths, buckets, 32, 3.0, 5)
    for epochs, steps in ((0.5, 5), (2.5, 25), (0.01, 1), (1.04, 10)):
        part = plan_batches(lengths, buckets, 32, epochs, 5)
        assert part.bucket.tolist() == whole.bucket[:steps].tolist()
        assert part.rows.tolist() == whole.rows[:steps].tolist()


def test_the_plan_is_the_same_for_ever() -> None:
    plan = plan_batches(np.array([3, 9, 4, 12, 7, 16, 5]), (8, 16), 2, 2.0, 7)
    assert plan.bucket.tolist() == [16, 8, 16, 8, 16, 8, 16, 8]
    assert plan.rows.tolist() == [[5, -1], [4, 6], [3, 1], [2, 0], [5, 1], [6, 4], [3, -1], [0, 2]]


@patient
@given(row_lengths, st.integers(1, 4), st.integers(1, 9))
def test_evaluation_sees_every_row_once(lengths: np.ndarray, count: int, batch_size: int) -> None:
    buckets = choose_buckets(lengths, count)
    plan = evaluation_batches(lengths, buckets, batch_size)
    assert sorted(plan.rows[plan.rows >= 0].tolist()) == list(range(len(lengths)))
    assert plan.bucket.tolist() == sorted(plan.bucket.tolist(), reverse=True)
    for bucket, rows in zip(plan.bucket.tolist(), plan.rows, strict=True):
        assert {min(b for b in buckets if b >= length) for length in lengths[rows[rows >= 0]]} == {bucket}
    unfilled = Counter(plan.bucket[(plan.rows < 0).any(1)].tolist())
    assert max(unfilled.values(), default=0) <= 1


ROWS = [[1, 7, 8, 9, 2], [1, 7, 2], [1, 5, 2, 6, 2]]
TARGETS = {
    "label": [1, 0, 2],
    "score": [0.5, 0.25, 1.0],
    "tags": [[-1, 0, -1, 3, -1], [-1, 4, -1], [-1, 1, -1, 2, -1]],
    "start": [1, 0, 3],
    "end": [2, 0, 3],
    "no_answer": [0.0, 1.0, 0.0],
}
KINDS = {
    "label": "int32",
    "score": "float32",
    "tags": "int32",
    "start": "int32",
    "end": "int32",
    "no_answer": "float32",
}


def test_a_batch_is_padded_and_weighted() -> None:
    rows = flatten(Encoded(ROWS, TARGETS, [0, 1, 2]), SPECIAL)
    batch = collate(rows, np.array([2, -1, 1]), 8)
    assert batch["ids"].tolist() == [[1, 5, 2, 6, 2, 0, 0, 0], [1, 2, 0, 0, 0, 0, 0, 0], [1, 7, 2, 0, 0, 0, 0, 0]]
    assert batch["weight"].tolist() == [1, 0, 1]
    assert batch["tags"].tolist() == [[-1, 1, -1, 2, -1, -1, -1, -1], [-1] * 8, [-1, 4, -1, -1, -1, -1, -1, -1]]
    assert batch["label"].tolist() == [2, 0, 0]
    assert batch["score"].tolist() == [1, 0, 0.25]
    assert (batch["start"].tolist(), batch["end"].tolist()) == ([3, 0, 0], [3, 0, 0])
    assert batch["no_answer"].tolist() == [0, 0, 1]
    assert {name: str(values.dtype) for name, values in batch.items()} == {"ids": "int32", "weight": "float32", **KINDS}


def test_batches_of_all_members_are_put_together_at_once() -> None:
    rows = flatten(Encoded(ROWS, TARGETS, [0, 1, 2]), SPECIAL)
    numbers = np.array([[0, 1, 2], [2, 2, -1]])
    together = collate(rows, numbers, 5)
    alone = [collate(rows, own, 5) for own in numbers]
    for name, values in together.items():
        assert (values == np.stack([batch[name] for batch in alone])).all()


def test_rows_without_targets_are_batched_for_prediction() -> None:
    batch = collate(flatten(Encoded(ROWS, {}, [0, 1, 2]), SPECIAL), np.array([0]), 8)
    assert set(batch) == {"ids", "weight"}


def test_a_row_that_does_not_fit_is_refused() -> None:
    rows = flatten(Encoded(ROWS, {}, [0, 1, 2]), SPECIAL)
    with pytest.raises(ValueError, match="5 tokens does not fit into 4"):
        collate(rows, np.array([0]), 4)
    with pytest.raises(ValueError, match="in no bucket"):
        plan_batches(np.array([3, 20]), (8, 16), 2, 1.0, 0)
