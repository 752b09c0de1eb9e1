"""Files of examples, whatever their layout: labelled to train and to measure, or not, to predict."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

from electra_jax.errors import UserError
from electra_jax.finetune import tables
from electra_jax.finetune.columns import read_columns
from electra_jax.finetune.examples import Example, TaggedExample, TextExample
from electra_jax.finetune.lines import Refusals, check_decoded, numbered_lines, place
from electra_jax.finetune.records import example_of, with_different_ids
from electra_jax.finetune.squad_files import read_squad
from electra_jax.finetune.task import Task

STANDARD_INPUT = "standard input"


def read_examples(
    task: Task, path: Path, labelled: bool = True, skip_bad: bool = False, report: Callable[[str], None] = print
) -> list[Example]:
    """The examples of a file in the task's layout, in the file's order.

    Raises UserError with file and line for the first that is not right; with `skip_bad` such places are counted, left
    out and reported once. A missing column or a file without examples ends the reading all the same.
    """
    refusals = Refusals(skip_bad)
    examples = list(_read(task, path, labelled, refusals))
    _check_held(bool(examples), str(path), refusals, report)
    return examples


def read_inputs(
    task: Task,
    source: Path | Iterable[str],
    name: str = STANDARD_INPUT,
    skip_bad: bool = False,
    report: Callable[[str], None] = print,
) -> Iterator[Example]:
    """What to predict for, without labels, as it is read: a file, or lines of which `name` says whose they are.

    JSONL, TSV and CSV are told by the file's name; JSON lines by the first line's being an object. Other lines are a
    text each, which a task of one text takes. Blank lines are passed over.
    """
    refusals = Refusals(skip_bad)
    if isinstance(source, Path):
        name, suffix = str(source), source.suffix.lower()
        if suffix in tables.SUFFIXES and (task.layout != "squad" or suffix != ".json"):
            found = with_different_ids(tables.read_table(task, source, False, refusals), refusals)
        elif task.layout == "squad" or (task.layout == "columns" and suffix != ".txt"):
            found = _read(task, source, False, refusals)
        else:
            found = _plain(task, numbered_lines(source), name, refusals)
    else:
        found = _lines(task, source, name, refusals)
    held = False
    for example in found:
        held = True
        yield example
    _check_held(held, name, refusals, report)


def _lines(task: Task, source: Iterable[str], name: str, refusals: Refusals) -> Iterator[Example]:
    lines = ((number, line) for number, line in enumerate(source, 1) if line.strip())
    first = next(lines, None)
    if first is None:
        return
    number, line = first[0], first[1].removeprefix("\ufeff")
    every = chain([(number, line)], lines)
    if line.lstrip().startswith("{"):
        yield from with_different_ids(tables.read_json_lines(task, every, name, False, refusals), refusals)
    else:
        yield from _plain(task, every, name, refusals)


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


def _read(task: Task, path: Path, labelled: bool, refusals: Refusals) -> Iterator[Example]:
    if task.layout == "columns" and path.suffix.lower() not in tables.JSON_SUFFIXES:
        return read_columns(task, path, labelled, refusals)
    if task.layout == "squad":
        return read_squad(task, path, labelled, refusals)
    if path.suffix.lower() not in (*tables.SUFFIXES, ".txt"):
        raise UserError(f"{path} is none of {', '.join(tables.SUFFIXES)}: rename it to what it is, or convert it")
    return with_different_ids(tables.read_table(task, path, labelled, refusals), refusals)


def _plain(task: Task, lines: Iterable[tuple[int, str]], name: str, refusals: Refusals) -> Iterator[Example]:
    if task.pair is not None or task.kind == "question_answering":
        names = [tables.USUAL[task.kind][role][0] for role in ("text", "pair")]
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
