"""SQuAD's own JSON, 1.1 and 2.0."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from electra_jax.errors import UserError
from electra_jax.tasks.examples import Example
from electra_jax.tasks.lines import Refusals, check_decoded, place
from electra_jax.tasks.records import question_of, with_different_ids
from electra_jax.tasks.task import Task


def read_squad(
    task: Task, lines: Iterable[tuple[int, str]], name: str, labelled: bool, refusals: Refusals
) -> Iterator[Example]:
    """The questions of a file's lines, in its order. Such a file has few lines, so a question's place is its id.

    Raises UserError where the file is not laid out as SQuAD's.
    """
    yield from with_different_ids(_questions(task, _load(lines, name), name, labelled, refusals), refusals)


def _questions(task: Task, held: Any, name: str, labelled: bool, refusals: Refusals) -> Iterator[Example]:
    for at, article in enumerate(_list(held, "data", name)):
        where = f"{name}, data[{at}]"
        for number, paragraph in enumerate(_list(article, "paragraphs", where)):
            inside = f"{where}.paragraphs[{number}]"
            for position, question in enumerate(_list(paragraph, "qas", inside)):
                try:
                    fields = _fields(paragraph, question, labelled, f"{inside}.qas[{position}]")
                    yield question_of(task, fields, f"{name}, question {fields['id']}", labelled)
                except UserError as error:
                    refusals.take(error)


def _fields(paragraph: dict[str, Any], question: Any, labelled: bool, where: str) -> dict[str, Any]:
    if not isinstance(question, dict) or not isinstance(question.get("id"), str):
        raise UserError(f"{where} has no 'id' that is a text")
    fields = {"id": question["id"], "text": question.get("question"), "pair": paragraph.get("context")}
    if labelled:
        if not isinstance(question.get("answers"), list):
            raise UserError(f"{where}, question {question['id']} has no list of 'answers'")
        fields["label"] = question["answers"]
        if "is_impossible" in question:
            fields["is_impossible"] = question["is_impossible"]
    return fields


def _load(lines: Iterable[tuple[int, str]], name: str) -> Any:
    held = []
    for number, line in lines:
        check_decoded(line, place(name, number))
        held.append(line)
    try:
        return json.loads("".join(held))
    except json.JSONDecodeError as error:
        where = f"{place(name, error.lineno)}, column {error.colno}"
        raise UserError(f"{where} is not JSON ({error.msg}): fetch the file again, or mend it") from None
    except (ValueError, RecursionError):
        raise UserError(f"{name} is not JSON that can be read: fetch the file again, or mend it") from None


def _list(value: Any, name: str, where: str) -> list[Any]:
    if not isinstance(value, dict) or not isinstance(value.get(name), list):
        raise UserError(f"{where} has no list {name!r}, which SQuAD's layout has there: name a file of that layout")
    return value[name]
