"""Documents -> examples -> rows. Pure functions on arrays of token ids.

Every example is `[CLS] A [SEP]` or `[CLS] A [SEP] B [SEP]`, and 0 is padding: a row is only token ids, for
which example, position and segment a token belongs to all follow from them.
"""

import random
from collections.abc import Iterator

import numpy as np
from jaxtyping import Int, Integer, UInt32

from electra_jax.config import SpecialTokens

# The published data: share of examples with a random target length, and with one segment only.
RANDOM_LENGTH_PROB = 0.05
SINGLE_SEGMENT_PROB = 0.1
MIN_LENGTH = 5


def isolated(
    ids: Integer[np.ndarray, " tokens"], lengths: Int[np.ndarray, " documents"], length: int, special: SpecialTokens
) -> UInt32[np.ndarray, "rows {length}"]:
    """Each document in pieces of at most length − 2 tokens, one example each, several examples a row.

    `lengths` cuts `ids` into documents. Pieces are placed longest first, each where it leaves the least room;
    nothing is lost and no example is cut short.
    """
    most = length - 2
    counts = -(-lengths // most)  # an empty document has no piece
    ends, last = np.cumsum(lengths), np.cumsum(counts) - 1
    within = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.repeat(ends - lengths, counts) + within * most
    sizes = np.full(len(starts), most)
    sizes[last[counts > 0]] = (lengths - (counts - 1) * most)[counts > 0]
    order = np.argsort(-sizes, kind="stable")
    starts, sizes = starts[order], sizes[order]
    row_of, column = _best_fit(sizes + 2, length)
    rows = np.zeros((int(row_of.max(initial=-1)) + 1, length), np.uint32)
    target = row_of * length + column
    flat = rows.reshape(-1)
    flat[target] = special.cls
    flat[target + sizes + 1] = special.sep
    steps = np.arange(sizes.sum()) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    flat[np.repeat(target + 1, sizes) + steps] = ids[np.repeat(starts, sizes) + steps]
    return rows


def _best_fit(
    sizes: Int[np.ndarray, " pieces"], length: int
) -> tuple[Int[np.ndarray, " pieces"], Int[np.ndarray, " pieces"]]:
    """For pieces from the longest to the shortest: the row and the column where each begins."""
    rows_with: list[list[int]] = [[] for _ in range(length + 1)]  # by how much room is left
    some = 0  # bit r is set where a row with room for r is open
    num_rows = 0
    row_of, column = [], []
    for size in sizes.tolist():
        fitting = some >> size
        if fitting:
            room = size + (fitting & -fitting).bit_length() - 1
            row = rows_with[room].pop()
            if not rows_with[room]:
                some &= ~(1 << room)
        else:
            row, room = num_rows, length
            num_rows += 1
        row_of.append(row)
        column.append(length - room)
        if room > size:
            rows_with[room - size].append(row)
            some |= 1 << (room - size)
    return np.array(row_of, np.int64), np.array(column, np.int64)


def concat(
    ids: Integer[np.ndarray, " tokens"], length: int, special: SpecialTokens
) -> UInt32[np.ndarray, "rows {length}"]:
    """`[CLS]`, length − 2 tokens of the running stream, `[SEP]`; only the last row may be shorter."""
    most = length - 2
    num_rows = -(-len(ids) // most)
    rows = np.zeros((num_rows, length), np.uint32)
    rows[:, 0] = special.cls
    filled = np.zeros(num_rows * most, np.uint32)
    filled[: len(ids)] = ids
    rows[:, 1:-1] = filled.reshape(num_rows, most)
    sizes = np.full(num_rows, most)
    sizes[-1:] = len(ids) - (num_rows - 1) * most
    rows[np.arange(num_rows), sizes + 1] = special.sep
    return rows


def reference(
    ids: Integer[np.ndarray, " tokens"],
    line_lengths: Int[np.ndarray, " lines"],
    num_lines: Int[np.ndarray, " documents"],
    length: int,
    special: SpecialTokens,
    rng: random.Random,
) -> UInt32[np.ndarray, "rows {length}"]:
    """The published code's examples, one a row: lines A and the lines that follow them, B, cut to fit.

    `line_lengths` cuts `ids` into lines, `num_lines` the lines into documents. What does not fit is lost, as it
    was in the published data. There a line that fits in what A lacks joins A even after longer ones went to B,
    out of the text's order: a defect, left out.
    """
    examples = []
    lines = np.split(ids, np.cumsum(line_lengths)[:-1]) if len(line_lengths) else []
    first = 0
    for count in num_lines.tolist():
        document = [line for line in lines[first : first + count] if len(line)]
        examples += [_example(part, target, length, rng) for part, target in _parts(document, length, rng)]
        first += count
    rows = np.zeros((len(examples), length), np.uint32)
    for row, (a, b) in zip(rows, examples, strict=True):
        row[0], row[len(a) + 1] = special.cls, special.sep
        row[1 : len(a) + 1] = a
        if len(b):
            row[len(a) + 2 : len(a) + len(b) + 2] = b
            row[len(a) + len(b) + 2] = special.sep
    return rows


def _parts(lines: list[np.ndarray], length: int, rng: random.Random) -> Iterator[tuple[list[np.ndarray], int]]:
    """Runs of lines that reach the length aimed at, with that length; the document's last run may not."""
    held: list[np.ndarray] = []
    size, target = 0, _target(length, rng)
    for line in lines:
        held.append(line)
        size += len(line)
        if size >= target:
            yield held, target
            held, size, target = [], 0, _target(length, rng)
    if held:
        yield held, target


def _target(length: int, rng: random.Random) -> int:
    """The length an example aims at, the first of a document as any other."""
    random_length = rng.random() < RANDOM_LENGTH_PROB
    return MIN_LENGTH + int(rng.random() * (length - MIN_LENGTH + 1)) if random_length else length


def _example(lines: list[np.ndarray], target: int, length: int, rng: random.Random) -> tuple[np.ndarray, np.ndarray]:
    """Segments A and B, B empty in an example of one segment."""
    half = (target - 3) // 2
    size, count = len(lines[0]), 1
    if rng.random() < SINGLE_SEGMENT_PROB:
        count = len(lines)
    while count < len(lines) and size + len(lines[count]) < half:
        size += len(lines[count])
        count += 1
    # A line that reaches the middle goes to either side, so that A is about half on the average.
    if count < len(lines) and size < half and rng.random() < 0.5:
        count += 1
    a = np.concatenate(lines[:count])[: length - 2]
    b = np.concatenate([a[:0], *lines[count:]])[: max(0, length - len(a) - 3)]
    return a, b
