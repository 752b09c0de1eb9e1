"""Texts of any length as rows of a few fixed shapes, so that few programs are compiled."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Int

from electra_jax.config import SpecialTokens

SMALLEST = 16  # tokens of the shortest row
MOST_ROWS = 32  # rows computed at once


def cut(ids: Sequence[int], size: int, starts_word: Callable[[int], bool]) -> Iterator[tuple[int, int]]:
    """Windows (first, last) of at most `size` tokens that together hold every token once.

    A window ends before the beginning of a word wherever it holds more than one word.
    """
    first = 0
    while first < len(ids):
        last = min(first + size, len(ids))
        if last < len(ids):
            last = next((at for at in range(last, first, -1) if starts_word(ids[at])), last)
        yield first, last
        first = last


def rows_of(
    windows: Sequence[Sequence[int]], special: SpecialTokens, length: int, smallest: int = SMALLEST
) -> Iterator[tuple[list[int], Int[np.ndarray, "b l"]]]:
    """Each window as `[CLS] window [SEP]`: (which windows, rows) with both sizes a power of two.

    A row's length depends on its own window only; `length` is the most it can be. The last rows may be padding.
    """
    by_length: dict[int, list[int]] = {}
    for number, window in enumerate(windows):
        by_length.setdefault(min(length, _power_of_two(len(window) + 2, smallest)), []).append(number)
    for size, numbers in sorted(by_length.items()):
        for start in range(0, len(numbers), MOST_ROWS):
            part = numbers[start : start + MOST_ROWS]
            rows = np.full((_power_of_two(len(part), 1), size), special.pad, np.int32)
            for row, number in zip(rows, part, strict=False):
                row[: len(windows[number]) + 2] = [special.cls, *windows[number], special.sep]
            yield part, rows


def _power_of_two(size: int, smallest: int) -> int:
    return max(smallest, 1 << (size - 1).bit_length())
