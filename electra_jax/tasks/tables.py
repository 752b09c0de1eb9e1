"""TSV, CSV and JSONL files of examples."""

import csv
import json
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from electra_jax.errors import UserError
from electra_jax.tasks.examples import Example
from electra_jax.tasks.lines import BrokenRow, Refusals, check_decoded, listed, place
from electra_jax.tasks.records import example_of
from electra_jax.tasks.task import Kind, Task

RAW = "text"  # what is to be tagged comes under this name as people write it, under another one word by word
# What the fields are called where nobody said it: in records to predict, which need not copy the training file.
USUAL: dict[Kind, dict[str, tuple[str, ...]]] = {
    "classification": {"text": ("text", "sentence"), "pair": ("pair",), "label": ("label",)},
    "regression": {"text": ("text", "sentence"), "pair": ("pair",), "label": ("score", "label")},
    "tagging": {"text": ("words", "tokens", RAW), "label": ("tags", "label")},
    "question_answering": {"text": ("question",), "pair": ("context",), "label": ("answer", "answers")},
}
_HEADER_HINT = "mend it, for it names the columns"
_MAX_FIELD = 2**24  # characters; Python's csv stops at 131,072 otherwise


class Field(NamedTuple):
    """A field that a task reads: what it is to the task, and the names under which it may stand."""

    role: str
    names: tuple[str, ...]
    needed: bool
    raw: str | None = None  # the name under which it is a text whose words are not told apart

    def role_under(self, name: str) -> str:
        return "raw" if name == self.raw else self.role


def read_table(
    task: Task, lines: Iterable[tuple[int, str]], name: str, comma: bool, labelled: bool, refusals: Refusals
) -> Iterator[Example]:
    """The examples of CSV's or TSV's lines, one a record. A record's place is the line where it begins.

    Raises UserError where the header is bad or lacks a column, for by another line's names no record could be read.
    """
    rows = _rows(task, lines, name, comma, refusals)
    first = next(rows, None)
    if first is None:
        return
    header, rest = _header(task, first, rows, labelled)
    columns = _columns(task, header, first[0], labelled)
    for where, row in rest:
        try:
            yield example_of(task, {role: row[column] for role, column in columns.items()}, where, labelled)
        except UserError as error:
            refusals.take(error)


def read_json_lines(
    task: Task, lines: Iterable[tuple[int, str]], name: str, labelled: bool, refusals: Refusals
) -> Iterator[Example]:
    """The examples of numbered lines, each a JSON object. Blank lines are passed over."""
    wanted = _wanted(task, labelled, by_name=True)
    for number, line in lines:
        if not line.strip():
            continue
        where = place(name, number)
        try:
            check_decoded(line, where)
            yield example_of(task, _fields(_object(line, where), wanted, where), where, labelled)
        except UserError as error:
            refusals.take(error)


def _object(line: str, where: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (ValueError, RecursionError):
        raise UserError(f"{where} is not one whole JSON object") from None
    if not isinstance(value, dict):
        raise UserError(f"{where} is not a JSON object but of the type {type(value).__name__}")
    return value


def _fields(record: Mapping[str, Any], wanted: Sequence[Field], where: str) -> dict[str, Any]:
    found = {}
    for field in wanted:
        name = next((name for name in field.names if name in record), None)
        if name is not None:
            found[field.role_under(name)] = record[name]
        elif field.needed:
            raise UserError(f"{where} has no field {field.names[0]!r} but {listed(record)}")
    return found


def _wanted(task: Task, labelled: bool, by_name: bool) -> list[Field]:
    usual = USUAL[task.kind]

    def names(role: str, given: str | None) -> tuple[str, ...]:
        if given is None:
            return usual[role]
        if by_name and given.isdecimal():  # a column's number is no name
            return (*usual[role], given)
        # A name that somebody chose is the only one, or a slip of the pen would train on another column.
        return (given,) if labelled else (given, *usual[role])

    text = names("text", task.text)
    wanted = [Field("text", text, True), Field("id", ("id",), False)]
    if task.kind == "tagging" and not labelled:
        wanted[0] = Field("text", tuple(dict.fromkeys((*text, RAW))), True, RAW)
    if task.pair is not None or task.pair_optional or task.kind == "question_answering":
        wanted.append(Field("pair", names("pair", task.pair), not task.pair_optional))
    if labelled:
        wanted.append(Field("label", names("label", task.label), True))
    if labelled and task.kind == "question_answering":
        wanted += [Field("start", ("answer_start",), False), Field("is_impossible", ("is_impossible",), False)]
    return wanted


class _Lines:
    """Lines for a reader that takes several for a row; those that it took in vain can be taken again."""

    def __init__(self, lines: Iterable[tuple[int, str]]):
        self.rest = iter(lines)
        self.again: deque[tuple[int, str]] = deque()
        self.taken: list[tuple[int, str]] = []  # since the row began

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        line = self.again.popleft() if self.again else next(self.rest)
        self.taken.append(line)
        return line[1]

    def give_back(self) -> None:
        """All lines of the row but its first one are to be taken again."""
        self.again.extendleft(reversed(self.taken[1:]))


def _rows(
    task: Task, lines: Iterable[tuple[int, str]], name: str, comma: bool, refusals: Refusals
) -> Iterator[tuple[str, list[str]]]:
    """Where each row begins, and its cells, as many as the first row has; blank lines are passed over."""
    held, width = _Lines(lines), 0
    if comma or task.quoted:
        csv.field_size_limit(_MAX_FIELD)
        rows: Iterator[list[str]] = csv.reader(held, delimiter="," if comma else "\t", strict=True)
    else:
        rows = (line.rstrip("\r\n").split("\t") for line in held)
    while True:
        # What names the columns is never left out.
        strict = Refusals(False, _HEADER_HINT) if task.header and not width else refusals
        held.taken = []
        try:
            row = next(rows, None)
        except csv.Error as error:
            why = str(error).split(" - ")[0]  # without advice to programmers
            strict.take(UserError(f"{place(name, held.taken[0][0])} is not CSV with its quotes in pairs ({why})"))
            held.give_back()
            continue
        if row is None:
            return
        where, text = place(name, held.taken[0][0]), "\n".join(row)
        try:
            check_decoded(text, where)
            if not text.strip():
                continue
            if width and len(row) != width:
                # A quote that nobody closed may have been closed by another row's.
                held.give_back()
                raise BrokenRow(f"{where} has {_count(len(row))} where {_count(width)} were expected")
        except UserError as error:
            strict.take(error)
            continue
        width = len(row)
        yield where, row


def _header(
    task: Task, first: tuple[str, list[str]], rows: Iterator[tuple[str, list[str]]], labelled: bool
) -> tuple[list[str], Iterator[tuple[str, list[str]]]]:
    """The columns' names, and the rows below them. Columns that have no names are numbered."""
    names = [cell.strip() for cell in first[1]]
    # CoLA's test file has a header, which its training file has not.
    if task.header or (not labelled and set(names) & set(USUAL[task.kind]["text"])):
        return names, rows

    def all_rows() -> Iterator[tuple[str, list[str]]]:
        yield first
        yield from rows

    return [str(number) for number in range(len(names))], all_rows()


def _columns(task: Task, header: list[str], where: str, labelled: bool) -> dict[str, int]:
    columns = {}
    for field in _wanted(task, labelled, by_name=False):
        name = next((name for name in field.names if name in header), None)
        number = field.names[0]
        if name is not None:
            if header.count(name) > 1:
                raise UserError(f"{where} has more than one column {name!r}: rename all but one")
            columns[field.role_under(name)] = header.index(name)
        elif number.isdecimal() and int(number) < len(header):
            columns[field.role] = int(number)
        elif field.needed:
            raise UserError(
                f"{where} has no column {field.names[0]!r}, for it has {listed(header)}: name the right column"
            )
    return columns


def _count(width: int) -> str:
    return "1 column" if width == 1 else f"{width} columns"
