"""TSV, CSV and JSONL files of examples."""

import csv
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from electra_jax.errors import UserError
from electra_jax.finetune.examples import Example
from electra_jax.finetune.lines import Refusals, check_decoded, listed, numbered_lines, place
from electra_jax.finetune.records import example_of
from electra_jax.finetune.task import Kind, Task

JSON_SUFFIXES = (".jsonl", ".json", ".ndjson")
SUFFIXES = (".tsv", ".csv", *JSON_SUFFIXES)
# What the fields are called where nobody said it: in records to predict, which need not copy the training file.
USUAL: dict[Kind, dict[str, tuple[str, ...]]] = {
    "classification": {"text": ("text", "sentence"), "pair": ("pair",), "label": ("label",)},
    "regression": {"text": ("text", "sentence"), "pair": ("pair",), "label": ("score",)},
    "tagging": {"text": ("words", "tokens"), "label": ("tags",)},
    "question_answering": {"text": ("question",), "pair": ("context",), "label": ("answer", "answers")},
}
RAW = "text"  # what is to be tagged comes under this name as people write it, under another one word by word
_MAX_FIELD = 2**24  # characters; Python's csv stops at 131,072 otherwise
_DEFAULTS = (Task.text, Task.pair, Task.label)


class Field(NamedTuple):
    """A field that a task reads: what it is to the task, and the names under which it may stand."""

    role: str
    names: tuple[str, ...]
    needed: bool
    raw: str | None = None  # the name under which it is a text whose words are not told apart

    def role_under(self, name: str) -> str:
        return "raw" if name == self.raw else self.role


def read_table(task: Task, path: Path, labelled: bool, refusals: Refusals) -> Iterator[Example]:
    """The examples of a file, one a record. A record's place is the line where it begins.

    Raises UserError where a column is missing.
    """
    if path.suffix.lower() in JSON_SUFFIXES:
        yield from read_json_lines(task, numbered_lines(path), str(path), labelled, refusals)
        return
    rows = _rows(task, path, refusals)
    first = next(rows, None)
    if first is None:
        return
    header, rest = _header(task, first, rows, labelled)
    columns = _columns(task, header, path, labelled)
    for where, row in rest:
        try:
            if len(row) != len(header):
                raise UserError(f"{where} has {_count(row)} where {_count(header)} were expected")
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
        # A name that somebody chose is the only one, or a slip of the pen would train on another column.
        chosen = given not in _DEFAULTS and not (by_name and given.isdecimal())
        if chosen:
            return (given,) if labelled else (given, *usual[role])
        return (*usual[role], given)

    text = names("text", task.text)
    wanted = [Field("text", text, True), Field("id", ("id",), False)]
    if task.kind == "tagging" and not labelled:
        wanted[0] = Field("text", tuple(dict.fromkeys((*text, RAW))), True, RAW)
    if task.pair is not None or task.kind == "question_answering":
        wanted.append(Field("pair", names("pair", task.pair), True))
    if labelled:
        wanted.append(Field("label", names("label", task.label), True))
    if labelled and task.kind == "question_answering":
        wanted += [Field("start", ("answer_start",), False), Field("is_impossible", ("is_impossible",), False)]
    return wanted


def _rows(task: Task, path: Path, refusals: Refusals) -> Iterator[tuple[str, list[str]]]:
    """Where each row begins, and its cells; blank lines are passed over."""
    comma = path.suffix.lower() == ".csv"
    if not (comma or task.quoted):
        for number, line in numbered_lines(path):
            where = place(path, number)
            if _decoded(line, where, refusals):
                yield where, line.rstrip("\r\n").split("\t")
        return
    csv.field_size_limit(_MAX_FIELD)
    reader = csv.reader((line for _, line in numbered_lines(path)), delimiter="," if comma else "\t", strict=True)
    while True:
        where = place(path, reader.line_num + 1)
        try:
            row = next(reader, None)
        except csv.Error as error:
            why = str(error).split(" - ")[0]  # without advice to programmers
            refusals.take(UserError(f"{where} is not CSV with its quotes in pairs ({why})"))
            continue
        if row is None:
            return
        if _decoded("\n".join(row), where, refusals):
            yield where, row


def _decoded(line: str, where: str, refusals: Refusals) -> bool:
    try:
        check_decoded(line, where)
    except UserError as error:
        refusals.take(error)
        return False
    return bool(line.strip())


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


def _columns(task: Task, header: list[str], path: Path, labelled: bool) -> dict[str, int]:
    columns = {}
    for field in _wanted(task, labelled, by_name=False):
        name = next((name for name in field.names if name in header), None)
        number = field.names[0]
        if name is not None:
            if header.count(name) > 1:
                raise UserError(f"{place(path, 1)} has more than one column {name!r}: rename all but one")
            columns[field.role_under(name)] = header.index(name)
        elif number.isdecimal() and int(number) < len(header):
            columns[field.role] = int(number)
        elif field.needed:
            raise UserError(
                f"{place(path, 1)} has no column {field.names[0]!r}, for it has {listed(header)}: name the right column"
            )
    return columns


def _count(row: list[str]) -> str:
    return "1 column" if len(row) == 1 else f"{len(row)} columns"
