"""Column files as CoNLL's: a word a line with its tag in a column, a blank line between sentences."""

import re
from collections.abc import Iterable, Iterator

from electra_jax.errors import UserError
from electra_jax.tasks.examples import TaggedExample
from electra_jax.tasks.lines import Refusals, check_decoded, place
from electra_jax.tasks.records import checked_tags
from electra_jax.tasks.task import Task


def read_columns(
    task: Task, lines: Iterable[tuple[int, str]], name: str, labelled: bool, refusals: Refusals
) -> Iterator[TaggedExample]:
    """The sentences of a file's lines. -DOCSTART- lines are passed over, and comments as CoNLL-U has them.

    A bad line takes its sentence with it, for without it the others' tags would stand in another one.
    """
    width: int | None = None
    for sentence in _sentences(lines):
        try:
            for number, line in sentence:
                cells = _cells(line, place(name, number))
                width = width or len(cells)
                if len(cells) != width:
                    raise UserError(f"{place(name, number)} has {len(cells)} columns where {width} were expected")
            yield _sentence(task, name, sentence, labelled)
        except UserError as error:
            refusals.take(error)


def _sentence(task: Task, name: str, lines: list[tuple[int, str]], labelled: bool) -> TaggedExample:
    wheres = [place(name, number) for number, _ in lines]
    rows = [_cells(line, where) for (_, line), where in zip(lines, wheres, strict=True)]
    width = len(rows[0])
    of_word, of_tag = task.word_column, task.tag_column
    if not -width <= of_word < width:
        raise UserError(f"{wheres[0]} has {width} columns, and the word is looked for in column {of_word}")
    words = tuple(row[of_word] for row in rows)
    if not labelled:
        return TaggedExample(words, None, wheres[0])
    if not -width <= of_tag < width or of_tag % width == of_word % width:
        raise UserError(f"{wheres[0]} has {width} columns, and the tag is looked for in column {of_tag}")
    return TaggedExample(words, checked_tags(task, [row[of_tag] for row in rows], wheres), wheres[0])


def _sentences(lines: Iterable[tuple[int, str]]) -> Iterator[list[tuple[int, str]]]:
    held: list[tuple[int, str]] = []
    for number, line in lines:
        if line.strip() and not line.startswith("-DOCSTART-"):
            held.append((number, line))
        elif held:
            yield _without_comments(held)
            held = []
    if held:
        yield _without_comments(held)


def _without_comments(sentence: list[tuple[int, str]]) -> list[tuple[int, str]]:
    """Between columns of tabs a line that begins with # and has none is a comment; else # may be a word."""
    words = [(number, line) for number, line in sentence if not line.startswith("#") or "\t" in line]
    return words if words and all("\t" in line for _, line in words) else sentence


def _cells(line: str, where: str) -> list[str]:
    check_decoded(line, where)
    # Not every white space: a no-break space may be part of a word.
    cells = [cell for cell in re.split("[ \t]+", line.strip(" \t\r\n")) if cell]
    if not cells:
        raise UserError(f"{where} has no word")
    return cells
