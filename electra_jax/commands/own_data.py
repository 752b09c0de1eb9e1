"""A user's own data, described on the command line."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from electra_jax.errors import UserError

if TYPE_CHECKING:
    from electra_jax.tasks.task import Task

# The options that belong to some kinds only.
FOR_KINDS = {
    "pair": ("classification", "regression", "question_answering"),
    "word_column": ("tagging",),
    "tag_column": ("tagging",),
    "scheme": ("tagging",),
    "low": ("regression",),
    "high": ("regression",),
    "answerability": ("question_answering",),
}


@dataclass(frozen=True, kw_only=True)
class OwnData:
    """In place of --task and --data: files of your own, CSV, TSV (no quotes) or JSONL; tagging also in columns, a word
    a line; question answering also as SQuAD's JSON. Columns are named by the header, or numbered from 0.
    """

    # The names of a Task's settings.
    kind: Literal["classification", "regression", "tagging", "question_answering"] | None = None  # of task
    train: Path | None = None  # what is learned from
    dev: tuple[Path, ...] = ()  # held out; several are measured apart, the first one chooses
    test: tuple[Path, ...] = ()  # measured once, at the end, for every member, into results.json; never chosen by
    # Of all these files: table (CSV by its name, else TSV), jsonl, columns, squad. None: as each file's name says.
    layout: Literal["table", "jsonl", "columns", "squad"] | None = None
    text: str | None = None  # None: text or sentence; tagging: words or tokens; question answering: question
    pair: str | None = None  # the second text; question answering: context
    label: str | None = None  # None: label; regression: or score; tagging: or tags; question answering: answer, answers
    header: bool = True  # the first line of CSV and TSV names the columns
    word_column: int = 0  # files in columns: where the word stands
    tag_column: int = -1  # likewise the tag; -1: the last column
    # Of the tags; none: each word's tag stands for itself, and accuracy is over words.
    scheme: Literal["iob1", "iob2", "none"] = "none"
    low: float | None = None  # the scores' range, and its bound; None: that of the training file, which bounds nothing
    high: float | None = None  # likewise
    answerability: bool = False  # there are questions without an answer
    metrics: str | None = None  # with commas between; the first one chooses. None: the usual ones of the kind


def find_task_and_data(task: str | None, data: str | None, own: OwnData) -> "tuple[Task, str]":
    """The task that the arguments name or describe, and where its files are.

    Raises UserError where they name both or neither, or what does not go with the kind.
    """
    from electra_jax.tasks.describe import describe_task
    from electra_jax.tasks.known import find_task

    given = [field.name for field in fields(own) if getattr(own, field.name) != field.default]
    if task is not None:
        if given:
            raise UserError(f"{_options(given)} describe data of one's own, and --task names a task: leave one out")
        if data is None:
            raise UserError(f"--task {task} needs --data, the folder of its files")
        return find_task(task), data
    if own.kind is None or own.train is None or not own.dev:
        raise UserError(
            "say what to learn: --task NAME --data FOLDER, or, of one's own data, --kind KIND --train FILE --dev FILE"
        )
    if data is not None:
        raise UserError("--data is the folder of a --task's files: leave it out, for --train and --dev name yours")
    wrong = [name for name in given if own.kind not in FOR_KINDS.get(name, (own.kind,))]
    if wrong:
        raise UserError(f"{_options(wrong)} cannot go with --kind {own.kind}: leave it out")
    said = {name: getattr(own, name) for name in given if name not in ("kind", "train", "dev", "test")}
    if own.metrics is not None:
        said["metrics"] = tuple(name.strip() for name in own.metrics.split(","))
    dev, test = ([path.expanduser() for path in files] for files in (own.dev, own.test))
    return describe_task(own.kind, own.train.expanduser(), dev, test, **said), "."


def _options(names: list[str]) -> str:
    return ", ".join("--no-header" if name == "header" else f"--{name.replace('_', '-')}" for name in names)
