import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_jax.config import SpecialTokens
from electra_jax.text import packing

SPECIAL = SpecialTokens(pad=0, cls=2, sep=3, mask=4)
documents = st.lists(st.lists(st.integers(5, 99), max_size=40), max_size=30)


def flat(parts: list[list[int]]) -> tuple[np.ndarray, np.ndarray]:
    return (
        np.array([i for part in parts for i in part], np.uint32),
        np.array([len(part) for part in parts], np.int64),
    )


def examples(rows: np.ndarray) -> list[list[int]]:
    """The content of each example; fails where a row is anything but [CLS] … [SEP] again and again, then 0."""
    found = []
    for row in rows.tolist():
        while row and row[-1] == 0:
            row.pop()
        assert 0 not in row
        while row:
            assert row[0] == SPECIAL.cls
            end = row.index(SPECIAL.sep)
            found.append(row[1:end])
            row = row[end + 1 :]
    return found


@given(documents, st.integers(8, 33))
def test_isolated_holds_every_piece_of_every_document_once(parts: list[list[int]], length: int) -> None:
    rows = packing.isolated(*flat(parts), length, SPECIAL)
    most = length - 2
    pieces = [part[i : i + most] for part in parts for i in range(0, len(part), most)]
    assert sorted(examples(rows)) == sorted(pieces)
    assert rows.shape[1] == length


@pytest.mark.parametrize(("mean", "length"), [(60, 128), (400, 128), (400, 512), (12, 64)])
def test_isolated_fills_the_rows(mean: int, length: int) -> None:
    rng = np.random.default_rng(0)
    lengths = rng.geometric(1 / mean, 4000)
    rows = packing.isolated(np.full(lengths.sum(), 7, np.uint32), lengths, length, SPECIAL)
    assert (rows != 0).mean() >= 0.97


@given(documents, st.integers(8, 33))
def test_concat_is_one_stream_in_full_rows(parts: list[list[int]], length: int) -> None:
    ids, _ = flat(parts)
    rows = packing.concat(ids, length, SPECIAL)
    found = examples(rows)
    assert [i for example in found for i in example] == ids.tolist()
    assert all(len(example) == length - 2 for example in found[:-1])
    assert len(found) == len(rows)


def segments(row: np.ndarray) -> list[list[int]]:
    row = row[row != 0]
    assert row[0] == SPECIAL.cls
    assert row[-1] == SPECIAL.sep
    return [part[part != SPECIAL.sep].tolist() for part in np.split(row[1:], np.flatnonzero(row[1:] == 3) + 1)[:-1]]


@given(st.lists(st.lists(st.lists(st.integers(5, 99), max_size=12), max_size=12), max_size=6), st.integers(8, 33))
def test_reference_examples_are_runs_of_one_document(texts: list[list[list[int]]], length: int) -> None:
    # Every token gets a number of its own, so that where it came from can be read off.
    number = iter(range(5, 10**6))
    texts = [[[next(number) for _ in line] for line in text] for text in texts]
    ids, line_lengths = flat([line for text in texts for line in text])
    num_lines = np.array([len(text) for text in texts], np.int64)
    rows = packing.reference(ids, line_lengths, num_lines, length, SPECIAL, random.Random(0))
    whole = [[i for line in text for i in line] for text in texts]
    for row in rows:
        parts = segments(row)
        assert 1 <= len(parts) <= 2
        assert all(parts)
        assert any(set(parts[0] + parts[-1]) <= set(text) for text in whole)
        for part in parts:
            assert part == list(range(part[0], part[0] + len(part)))
        assert parts[0][0] <= parts[-1][0]


def test_reference_has_the_published_probabilities() -> None:
    rng = np.random.default_rng(1)
    length, num_documents = 128, 400
    line_lengths = rng.integers(5, 20, num_documents * 200)
    ids = np.full(line_lengths.sum(), 7, np.uint32)
    rows = packing.reference(ids, line_lengths, np.full(num_documents, 200), length, SPECIAL, random.Random(0))
    seps = (rows == SPECIAL.sep).sum(1)
    long = seps[(rows != 0).sum(1) > 100]  # a short one may be a single line, and so a single segment
    single = (long == 1).mean()
    assert abs(single - packing.SINGLE_SEGMENT_PROB) < 4 * np.sqrt(0.1 * 0.9 / len(long))
    # Five in a hundred examples aim at any length from 5 to 128; the last of each document may be short too.
    short = ((rows != 0).sum(1) < 100).mean() - num_documents / len(rows) * 100 / 128
    assert abs(short - packing.RANDOM_LENGTH_PROB * 0.7) < 0.02
    two = rows[seps == 2]
    a = (two == SPECIAL.sep).argmax(1) - 1
    full = a[(two != 0).sum(1) > 120]
    assert 52 < full.mean() < 68  # A is about half


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_reference_is_seeded(seed: int) -> None:
    ids, lines = np.arange(5, 505, dtype=np.uint32), np.full(50, 10)
    first, second = (packing.reference(ids, lines, np.array([50]), 32, SPECIAL, random.Random(seed)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
