import random
from typing import NamedTuple

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


class Packed(NamedTuple):
    """Rows of `reference` whose tokens are numbered through the text, and what can be read off them."""

    rows: np.ndarray
    first: np.ndarray  # number of each row's first token
    taken: np.ndarray  # tokens of the lines that each row was made from, before it was cut to fit
    a: np.ndarray  # tokens of segment A
    b: np.ndarray  # and of B
    in_document: np.ndarray  # each row's place in its document, from 0
    is_last: np.ndarray  # the last row of its document


def pack_numbered(line_lengths: np.ndarray, lines_per_document: int, length: int) -> Packed:
    """As many documents as the lines make; 0 is the first token's number."""
    ids = np.arange(line_lengths.sum(), dtype=np.uint32) + 5
    documents = np.full(len(line_lengths) // lines_per_document, lines_per_document)
    rows = packing.reference(ids, line_lengths, documents, length, SPECIAL, random.Random(0))
    first = rows[:, 1].astype(np.int64) - 5
    starts = np.append(0, np.cumsum(line_lengths.reshape(-1, lines_per_document).sum(axis=1)))
    document = np.searchsorted(starts, first, side="right") - 1
    opens = np.append(True, document[1:] != document[:-1])
    is_sep = rows == SPECIAL.sep
    a = is_sep.argmax(axis=1) - 1
    return Packed(
        rows=rows,
        first=first,
        taken=np.diff(np.append(first, len(ids))),
        a=a,
        b=(rows != 0).sum(axis=1) - 1 - is_sep.sum(axis=1) - a,
        in_document=np.arange(len(rows)) - np.flatnonzero(opens)[np.cumsum(opens) - 1],
        is_last=np.append(opens[1:], True),
    )


def assert_share(found: np.ndarray, probability: float) -> None:
    """The share of True is within five binomial standard errors of the probability."""
    assert abs(found.mean() - probability) < 5 * np.sqrt(probability * (1 - probability) / found.size)


@pytest.fixture(scope="module")
def of_single_tokens() -> Packed:
    """100,000 examples of lines of one token each, so that every example takes exactly the length it aimed at."""
    length, lines = 16, 640
    packed = pack_numbered(np.ones(2540 * lines, np.int64), lines, length)
    assert (~packed.is_last).sum() >= 100_000
    return packed


def test_reference_makes_one_example_in_ten_of_one_segment(of_single_tokens: Packed) -> None:
    """Every example has the lines for two, so that a missing B is the draw's doing, which leaves them all in A."""
    _, _, taken, a, b, _, is_last = of_single_tokens
    single = (b == 0)[~is_last]
    assert_share(single, 0.1)
    np.testing.assert_array_equal(a[~is_last][single], np.minimum(taken[~is_last][single], 16 - 2))


def test_reference_aims_one_example_in_twenty_at_any_length_from_5_on(of_single_tokens: Packed) -> None:
    aimed = of_single_tokens.taken[~of_single_tokens.is_last]
    assert aimed.min() == 5
    assert aimed.max() == 16
    for length in range(5, 16):
        assert_share(aimed == length, 0.05 / 12)
    assert_share(aimed < 16, 0.05 * 11 / 12)


def test_reference_aims_the_first_example_of_a_document_as_any_other() -> None:
    """Most documents of a corpus are an example or two long."""
    packed = pack_numbered(np.ones(100_000 * 8, np.int64), 8, 8)
    opening = packed.taken[packed.in_document == 0]
    assert len(opening) == 100_000
    assert_share(opening < 8, 0.05 * 3 / 4)


def test_reference_ends_a_at_or_just_before_the_middle(of_single_tokens: Packed) -> None:
    """The line that reaches half of what three special tokens leave joins A in one example of two."""
    _, _, taken, a, b, _, is_last = of_single_tokens
    two = ~is_last & (b > 0) & (taken >= 7)  # a shorter one's middle is its first token
    missing = (taken[two] - 3) // 2 - a[two]
    assert set(missing.tolist()) == {0, 1}
    assert_share(missing == 0, 0.5)


def test_reference_keeps_the_order_the_structure_and_the_length() -> None:
    """100,000 examples from lines of 5 to 19 tokens."""
    length = 128
    line_lengths = np.random.default_rng(1).integers(5, 20, 5360 * 210)
    rows, first, taken, a, b, _, is_last = pack_numbered(line_lengths, 210, length)
    assert (~is_last).sum() >= 100_000
    assert rows.shape[1] == length
    assert (rows[:, 0] == SPECIAL.cls).all()
    assert ((rows == SPECIAL.cls).sum(axis=1) == 1).all()
    column = np.arange(length)
    is_sep = (column == (a + 1)[:, None]) | ((b > 0)[:, None] & (column == (a + b + 2)[:, None]))
    np.testing.assert_array_equal(rows == SPECIAL.sep, is_sep)
    # The n-th token of the text that an example took is its n-th: B goes on where A ends.
    is_word = (column > 0) & (column < (a + 1 + b + (b > 0))[:, None]) & ~is_sep
    number = (first + 5)[:, None] + np.cumsum(is_word, axis=1) - 1
    np.testing.assert_array_equal(np.where(is_word, number, 0), np.where(rows > SPECIAL.mask, rows, 0))
    np.testing.assert_array_equal((rows > SPECIAL.mask).sum(axis=1), is_word.sum(axis=1))
    np.testing.assert_array_equal(a + b, np.minimum(taken, length - 2 - (b > 0)))
    full = taken >= length
    assert_share((b == 0)[full], 0.1)
    # Half of 128 less three; the lines' lengths spread A by some 5, so the mean's standard error is .02.
    assert abs(a[full & (b > 0)].mean() - 62) < 1


@settings(max_examples=20)
@given(st.integers(0, 2**32 - 1))
def test_reference_is_seeded(seed: int) -> None:
    ids, lines = np.arange(5, 505, dtype=np.uint32), np.full(50, 10)
    first, second = (packing.reference(ids, lines, np.array([50]), 32, SPECIAL, random.Random(seed)) for _ in range(2))
    np.testing.assert_array_equal(first, second)
