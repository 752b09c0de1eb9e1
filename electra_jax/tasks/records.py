"""The fields of a record made into an example, checked, whatever file the record comes from."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from electra_jax.errors import UserError
from electra_jax.tasks.examples import Answer, Example, QuestionExample, TaggedExample, TextExample
from electra_jax.tasks.lines import BrokenRow, Refusals, listed
from electra_jax.tasks.task import Task
from electra_jax.tasks.words import split_at_spaces, split_words

_NO_FORM = "O, or B- or I- and a type"


def example_of(task: Task, fields: Mapping[str, Any], where: str, labelled: bool) -> Example:
    """An example of the task's kind. The fields go by what they are to it: text or raw, pair, label, start, id.

    Raises UserError naming `where` for the first field that cannot be right.
    """
    if task.kind == "question_answering":
        return question_of(task, fields, where, labelled)
    return (
        tagged_of(task, fields, where, labelled) if task.kind == "tagging" else text_of(task, fields, where, labelled)
    )


def text_of(task: Task, fields: Mapping[str, Any], where: str, labelled: bool) -> TextExample:
    """A text or a pair with its label or score."""
    second = fields.get("pair")
    is_pair = second is not None if task.pair_optional else task.pair is not None
    text = checked_text(fields["text"], f"the {'first ' if is_pair else ''}text", where, BrokenRow)
    pair = checked_text(second, "the second text", where, BrokenRow) if is_pair else None
    label: str | float | None = None
    if labelled:
        read = score_of if task.kind == "regression" else label_of
        label = read(fields["label"], task, where)
    return TextExample(text, pair, label, where, _id_of(fields, where))


def tagged_of(task: Task, fields: Mapping[str, Any], where: str, labelled: bool) -> TaggedExample:
    """Words and tags, each a list or a text with spaces between them; or, not labelled, a raw text, split here."""
    if not labelled:
        return _untagged(fields, where)
    words = _items(fields["text"], "words", where)
    tags = _items(fields["label"], "tags", where)
    if len(tags) != len(words):
        raise UserError(f"{where} has {len(words)} words and {len(tags)} tags")
    tags = checked_tags(task, tags, [where] * len(tags))
    return TaggedExample(words, tags, where, _id_of(fields, where))


def _untagged(fields: Mapping[str, Any], where: str) -> TaggedExample:
    value = fields["raw"] if "raw" in fields else fields["text"]
    if "raw" not in fields and not isinstance(value, str):
        return TaggedExample(_items(value, "words", where), None, where, _id_of(fields, where))
    text = checked_text(value, "the text", where)
    places = tuple(split_words(text) if "raw" in fields else split_at_spaces(text))
    if not places:
        raise UserError(f"{where}: the text {_short(text)} holds no word")
    return TaggedExample(tuple(text[s:e] for s, e in places), None, where, _id_of(fields, where), places)


def question_of(task: Task, fields: Mapping[str, Any], where: str, labelled: bool) -> QuestionExample:
    """A question with its answers: a text with or without its start, or SQuAD's list of both."""
    question = checked_text(fields["text"], "the question", where)
    context = checked_text(fields["pair"], "the context", where)
    name = _id_of(fields, where) or where
    if not labelled:
        return QuestionExample(name, question, context, (), False, where)
    answers = tuple(_answer(text, start, context, where) for text, start in _answer_pairs(fields, where))
    impossible = fields.get("is_impossible", not answers)
    if not isinstance(impossible, bool) or impossible == bool(answers):
        raise UserError(f"{where} has {len(answers)} answers, which does not go with is_impossible {impossible!r}")
    if impossible and not task.answerability:
        raise UserError(f"{where} has no answer, and {task.name} has an answer to every question")
    return QuestionExample(name, question, context, answers, impossible, where)


def checked_text(value: Any, what: str, where: str, if_blank: type[UserError] = UserError) -> str:
    """A text that is not blank and that UTF-8 can spell."""
    if not isinstance(value, str):
        raise UserError(f"{where}: {what} is not a text but {_type(value)}")
    if not value.strip():
        raise if_blank(f"{where}: {what} is empty")
    if "\0" in value or not (value.isascii() or _is_unicode(value)):
        raise UserError(f"{where}: {what} holds a NUL or half of a surrogate pair, which is no text")
    return value


def label_of(value: Any, task: Task, where: str) -> str:
    """A class's name; where the task has its labels, one of them."""
    if isinstance(value, bool):
        value = "true" if value else "false"
    label = checked_text(str(value) if isinstance(value, int) else value, "the label", where).strip()
    _check_known(label, "label", task, where)
    return label


def score_of(value: Any, task: Task, where: str) -> float:
    """A finite number within the task's range."""
    try:
        score = float(value) if not isinstance(value, bool) else math.nan
    except (ValueError, TypeError, OverflowError):
        raise UserError(f"{where}: the score {_short(value)} is not a number") from None
    if not math.isfinite(score):
        raise UserError(f"{where}: the score {_short(value)} is not a finite number")
    low, high = task.bounds
    if not low <= score <= high:
        raise UserError(f"{where}: the score {_short(value)} is not within the task's {low:g} to {high:g}")
    return score


def checked_tags(task: Task, tags: Sequence[str], wheres: Sequence[str]) -> tuple[str, ...]:
    """Tags in IOB2 if the task's are in any IOB scheme; `wheres` says where each stands.

    An I- that goes on from nothing begins its chunk, as IOB1 means it and as CoNLL's own scorer takes it in IOB2.
    Raises UserError for a tag that is no IOB, or that the task does not have.
    """
    found: list[str] = []
    for tag, where in zip(tags, wheres, strict=True):
        if task.scheme != "none":
            if tag != "O" and (tag[:2] not in ("B-", "I-") or len(tag) == 2):
                raise UserError(f"{where}: the tag {_short(tag)} is not IOB, which has {_NO_FORM}")
            before = found[-1] if found else "O"
            if tag.startswith("I-") and before[2:] != tag[2:]:
                tag = "B-" + tag[2:]
        _check_known(tag, "tag", task, where)
        found.append(tag)
    return tuple(found)


def with_different_ids(examples: Iterable[Example], refusals: Refusals) -> Iterator[Example]:
    """Refuses a question whose id another one had: predictions go by it."""
    seen: dict[str, str] = {}
    for example in examples:
        if isinstance(example, QuestionExample):
            if example.id in seen:
                before = seen[example.id]
                refusals.take(UserError(f"{example.where} has the id {example.id!r} that {before} has already"))
                continue
            seen[example.id] = example.where
        yield example


def _answer_pairs(fields: Mapping[str, Any], where: str) -> list[tuple[Any, Any]]:
    value = fields["label"]
    if value is None or value == "":
        return []
    if isinstance(value, str):
        start = fields.get("start")
        return [(value, None if start == "" else start)]
    if isinstance(value, dict) and isinstance(value.get("text"), list):  # one list for each field
        starts = value.get("answer_start")
        if isinstance(starts, list) and len(starts) == len(value["text"]):
            return list(zip(value["text"], starts, strict=True))
    if isinstance(value, list) and all(isinstance(answer, dict) and "text" in answer for answer in value):
        return [(answer["text"], answer.get("answer_start")) for answer in value]
    raise UserError(f"{where}: the answers are neither a text nor a list of objects with 'text' and 'answer_start'")


def _answer(text: Any, start: Any, context: str, where: str) -> Answer:
    text = checked_text(text, "the answer", where)
    if start is None:
        found = context.find(text)
        if found < 0:
            raise UserError(f"{where}: the answer {_short(text)} is not in its context")
        if context.find(text, found + 1) >= 0:
            raise UserError(f"{where}: the answer {_short(text)} is in its context more than once, and has no start")
        return Answer(text, found)
    try:
        number = int(start) if isinstance(start, str) else start
    except ValueError:
        number = None
    if not isinstance(number, int) or isinstance(number, bool):
        raise UserError(f"{where}: the answer's start {_short(start)} is not a whole number")
    if number < 0 or context[number : number + len(text)] != text:
        raise UserError(f"{where}: the answer {_short(text)} is not in its context at character {number}")
    return Answer(text, number)


def _items(value: Any, what: str, where: str) -> tuple[str, ...]:
    items = value.split() if isinstance(value, str) else value
    if not isinstance(items, list):
        raise UserError(f"{where}: the {what} are neither a list nor a text but {_type(value)}")
    if not items:
        raise UserError(f"{where}: the {what} are empty")
    return tuple(checked_text(item, f"one of the {what}", where) for item in items)


def _id_of(fields: Mapping[str, Any], where: str) -> str | None:
    value = fields.get("id")
    if value is None or value == "":
        return None
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise UserError(f"{where}: the id is neither a text nor a whole number but {_type(value)}")
    return str(value)


def _check_known(label: str, what: str, task: Task, where: str) -> None:
    if task.labels and label not in task.labels:
        raise UserError(f"{where}: the {what} {_short(label)} is not among {task.name}'s, {listed(task.labels)}")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "…"


def _type(value: Any) -> str:
    return "nothing" if value is None else f"of the type {type(value).__name__}"
