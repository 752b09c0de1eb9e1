"""How a file of examples is laid out: as somebody said, else as its name says, else as its first line does."""

import json
import re
from collections.abc import Iterable
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from electra_jax.errors import UserError
from electra_jax.tasks.lines import numbered_lines
from electra_jax.tasks.task import KIND_OF, Layout, Task

# lines: a text a line, which has no label.
InputLayout = Layout | Literal["lines"]
JSON_LINES = (".jsonl", ".ndjson")
SUFFIXES = (".tsv", ".csv", *JSON_LINES, ".json")
PLAIN = ("", ".txt", ".text", ".md")


def layout_of(task: Task, source: Path | None, first: str, labelled: bool, said: InputLayout | None) -> InputLayout:
    """The layout of a file, or of standard input, whose first line that is not blank is `first`.

    Training, `evaluate` and `predict` all ask here. Where the file's name leaves it open, the task's layout decides.
    Raises UserError where nothing says it, and for a layout that does not go with the task.
    """
    suffix = None if source is None else source.suffix.lower()
    if said is not None:
        return _checked(task, "jsonl" if said == "table" and suffix in (*JSON_LINES, ".json") else said, labelled)
    if source is None or suffix is None:
        is_json = first.lstrip().startswith("{")
        return "lines" if not is_json else "squad" if _is_squad(task, first, whole=True) else "jsonl"
    if suffix in JSON_LINES:
        return "jsonl"
    if suffix == ".json":
        return "squad" if _is_squad(task, first, whole=False) else "jsonl"
    if suffix in SUFFIXES:
        return "columns" if task.layout == "columns" and suffix == ".tsv" else "table"
    if not labelled and (task.kind != "tagging" or suffix in PLAIN):
        if task.kind == "tagging":
            _refuse_columns(source)
        return "lines"
    if task.kind == "tagging":
        return "columns"
    if task.layout is None or (task.layout == "table" and suffix != ".txt"):
        raise UserError(f"{source} is none of {', '.join(SUFFIXES)}: rename it to what it is, or say its --layout")
    return task.layout


def first_line(lines: Iterable[tuple[int, str]]) -> tuple[str, Iterable[tuple[int, str]]]:
    """The first line that is not blank, "" where there is none; and all lines from it on."""
    rest = iter(lines)
    for number, line in rest:
        text = line.removeprefix("\ufeff") if number == 1 else line
        if text.strip():
            return text, chain([(number, text)], rest)
    return "", ()


def _checked(task: Task, layout: InputLayout, labelled: bool) -> InputLayout:
    only = KIND_OF.get(layout, task.kind)
    if only != task.kind:
        raise UserError(f"--layout {layout} is for {only}, and {task.name} is {task.kind}: say another one")
    if layout == "lines" and labelled:
        raise UserError("--layout lines is of texts without labels: say another one")
    return layout


def _is_squad(task: Task, first: str, whole: bool) -> bool:
    """Whether this begins SQuAD's one object, which may be of many lines unless it must be `whole` in the first."""
    if task.kind != "question_answering":
        return False
    try:
        value: Any = json.loads(first)
    except (ValueError, RecursionError):
        return not whole
    return isinstance(value.get("data"), list) if isinstance(value, dict) else not whole


def _refuse_columns(path: Path) -> None:
    """Raises UserError for what must be words and tags: several lines, all of as many cells, which no texts are."""
    widths, count = set[int](), 0
    for _, line in numbered_lines(path):
        cells = re.split("[ \t]+", line.strip(" \t\r\n"))
        if line.strip():
            widths.add(len(cells))
            count += 1
        if len(widths) > 1:
            return
    if count > 1 and min(widths) > 1:
        raise UserError(
            f"{path} has {min(widths)} columns in every line, as files of words and tags have: say --layout columns, "
            "or --layout lines where these are texts"
        )
