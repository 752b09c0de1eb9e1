"""Column files as CoNLL's: a word a line with its tag in a column, a blank line between sentences."""

import re
from collections.abc import Iterator
from pathlib import Path

from electra_jax.errors import UserError
from electra_jax.finetune.examples import TaggedExample
from electra_jax.finetune.lines import Refusals, check_decoded, numbered_lines, place
from electra_jax.finetune.records import checked_tags
from electra_jax.finetune.task import Task


def read_columns(task: Task, path: Path, labelled: bool, refusals: Refusals) -> Iterator[TaggedExample]:
    """The sentences of a file. The word is the first column; -DOCSTART- lines are passed over.

    A bad line takes its sentence with it, for without it the others' tags would stand in another one.
    """
    width: int | None = None
    for lines in _sentences(path):
        try:
            for number, line in lines:
                cells = _cells(line, place(path, number))
                width = width or len(cells)
                if len(cells) != width:
                    raise UserError(f"{place(path, number)} has {len(cells)} columns where {width} were expected")
            yield _sentence(task, path, lines, labelled)
        except UserError as error:
            refusals.take(error)


def _sentence(task: Task, path: Path, lines: list[tuple[int, str]], labelled: bool) -> TaggedExample:
    wheres = [place(path, number) for number, _ in lines]
    rows = [_cells(line, where) for (_, line), where in zip(lines, wheres, strict=True)]
    words = tuple(row[0] for row in rows)
    if not labelled:
        return TaggedExample(words, None, wheres[0])
    column, width = task.tag_column, len(rows[0])
    if not -width <= column < width or column % width == 0:  # the first one holds the words
        raise UserError(f"{wheres[0]} has {width} columns, and the tag is looked for in column {column}")
    return TaggedExample(words, checked_tags(task, [row[column] for row in rows], wheres), wheres[0])


def _sentences(path: Path) -> Iterator[list[tuple[int, str]]]:
    held: list[tuple[int, str]] = []
    for number, line in numbered_lines(path):
        if line.strip() and not line.startswith("-DOCSTART-"):
            held.append((number, line))
        elif held:
            yield held
            held = []
    if held:
        yield held


def _cells(line: str, where: str) -> list[str]:
    check_decoded(line, where)
    # Not every white space: a no-break space may be part of a word.
    cells = [cell for cell in re.split("[ \t]+", line.strip(" \t\r\n")) if cell]
    if not cells:
        raise UserError(f"{where} has no word")
    return cells
