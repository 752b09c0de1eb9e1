"""Files of examples, whatever their layout: labelled to train and to measure, or not, to predict."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

from electra_jax.errors import UserError
from electra_jax.tasks.columns import read_columns
from electra_jax.tasks.examples import Example, TaggedExample, TextExample
from electra_jax.tasks.layouts import InputLayout, first_line, layout_of
from electra_jax.tasks.lines import Refusals, check_decoded, numbered_lines, place
from electra_jax.tasks.records import example_of, with_different_ids
from electra_jax.tasks.squad_files import read_squad
from electra_jax.tasks.tables import USUAL, read_json_lines, read_table
from electra_jax.tasks.task import Layout, Task

STANDARD_INPUT = "standard input"


def read_examples(
    task: Task,
    path: Path,
    skip_bad: bool = False,
    report: Callable[[str], None] = print,
    layout: Layout | None = None,
) -> list[Example]:
    """The labelled examples of a file, in its order; its name says its layout, unless it is given.

    Raises UserError with file and line for the first that is not right; with `skip_bad` such places are counted, left
    out and reported once. A missing column or a file without examples ends the reading all the same.
    """
    refusals = Refusals(skip_bad, skip_broken=task.leave_out_broken)
    examples = list(_read(task, path, str(path), True, layout, refusals))
    _check_held(bool(examples), str(path), refusals, report)
    return examples


def read_inputs(
    task: Task,
    source: Path | Iterable[str],
    name: str = STANDARD_INPUT,
    skip_bad: bool = False,
    report: Callable[[str], None] = print,
    layout: InputLayout | None = None,
) -> Iterator[Example]:
    """What to predict for, without labels, as it is read: a file, or lines of which `name` says whose they are.

    Unless the layout is given, a file's name says it, and of lines the first one: an object begins JSON lines. Other
    lines are a text each, which a task of one text takes. Blank lines are passed over.
    """
    refusals = Refusals(skip_bad)
    name, held = str(source) if isinstance(source, Path) else name, False
    for example in _read(task, source, name, False, layout, refusals):
        held = True
        yield example
    _check_held(held, name, refusals, report)


def _read(
    task: Task,
    source: Path | Iterable[str],
    name: str,
    labelled: bool,
    layout: InputLayout | None,
    refusals: Refusals,
) -> Iterator[Example]:
    path = source if isinstance(source, Path) else None
    first, lines = first_line(numbered_lines(source) if isinstance(source, Path) else enumerate(source, 1))
    match layout_of(task, path, first, labelled, layout):
        case "lines":
            return _plain(task, lines, name, refusals)
        case "columns":
            return read_columns(task, lines, name, labelled, refusals)
        case "squad":
            return read_squad(task, lines, name, labelled, refusals)
        case "jsonl":
            return with_different_ids(read_json_lines(task, lines, name, labelled, refusals), refusals)
        case "table":
            comma = path is not None and path.suffix.lower() == ".csv"
            return with_different_ids(read_table(task, lines, name, comma, labelled, refusals), refusals)


def labels_of(examples: Sequence[Example]) -> tuple[str, ...]:
    """The labels, or the tags, that examples have: O first, then sorted."""
    found: set[str] = set()
    for example in examples:
        if isinstance(example, TaggedExample):
            found.update(example.tags or ())
        elif isinstance(example, TextExample) and isinstance(example.label, str):
            found.add(example.label)
    return tuple(sorted(found, key=lambda label: (label != "O", label)))


def with_labels(task: Task, train_examples: Sequence[Example]) -> Task:
    """The task with its training examples' labels, where it needs some and declares none.

    A chunk's type that begins in the training data may go on elsewhere (CoNLL-2000's I-LST stands in its test file
    alone), so that under an IOB scheme each type has both tags. Raises UserError where there are not two labels.
    """
    if task.labels or task.kind not in ("classification", "tagging"):
        return task
    labels: Iterable[str] = labels_of(train_examples)
    if task.kind == "tagging" and task.scheme != "none":
        types = {label[2:] for label in labels if label != "O"}
        labels = ("O", *sorted(f"{form}-{kind}" for form in "BI" for kind in types))
    labels = tuple(labels)
    if len(labels) < 2:
        raise UserError(
            f"{task.name}: every training example has the label {labels[0]!r}: give examples of two labels at least"
            if labels
            else f"{task.name}: the training examples have no labels: give labelled ones"
        )
    return replace(task, labels=labels)


def with_range(task: Task, train_examples: Sequence[Example]) -> Task:
    """The task with the range of its training examples' scores, where it needs one and does not give it.

    Only what was given bounds other scores. Raises UserError where the scores are all the same.
    """
    if task.kind != "regression" or None not in (task.low, task.high):
        return task
    scores = [example.label for example in train_examples if isinstance(example, TextExample)]
    found = [score for score in scores if isinstance(score, float)]
    low = min(found) if task.low is None else task.low
    high = max(found) if task.high is None else task.high
    if low >= high:
        raise UserError(f"{task.train}: every score is {low:g}: give low and high, or scores that differ")
    given: bool | Literal["low", "high"] = "low" if task.low is not None else "high" if task.high is not None else False
    return replace(task, low=low, high=high, bounded=task.bounded and given)


def _plain(task: Task, lines: Iterable[tuple[int, str]], name: str, refusals: Refusals) -> Iterator[Example]:
    if (task.pair is not None and not task.pair_optional) or task.kind == "question_answering":
        names = [USUAL[task.kind][role][0] for role in ("text", "pair")]
        raise UserError(
            f"{name} holds plain lines, and {task.name} takes two texts: give JSON lines with {names[0]!r} and "
            f"{names[1]!r}"
        )
    for number, line in lines:
        where, text = place(name, number), line.rstrip("\r\n")
        if not text.strip():
            continue
        try:
            check_decoded(text, where)
            yield example_of(task, {"raw" if task.kind == "tagging" else "text": text}, where, labelled=False)
        except UserError as error:
            refusals.take(error)


def _check_held(held: bool, name: str, refusals: Refusals, report: Callable[[str], None]) -> None:
    """Reports what was left out. Raises UserError where nothing is left."""
    refusals.tell(name, report)
    if not held:
        why = f", for all was left out, the first being: {refusals.first}" if refusals.count else ""
        raise UserError(f"{name} holds no examples{why}: name a file with at least one")
