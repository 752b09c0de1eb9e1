"""A user's own data, described on the command line."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from electra_jax.errors import UserError

if TYPE_CHECKING:
    from electra_jax.finetune.task import Task

# The options that belong to some kinds only.
FOR_KINDS = {
    "pair": ("classification", "regression", "question_answering"),
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

    kind: Literal["classification", "regression", "tagging", "question_answering"] | None = None  # of task
    train: Path | None = None  # what is learned from
    dev: tuple[Path, ...] = ()  # held out; several are measured apart, the first one chooses
    test: tuple[Path, ...] = ()  # read and checked with the others; `evaluate` measures them
    text: str | None = None  # None: text; tagging: words; question answering: question
    pair: str | None = None  # the second text; question answering: context
    label: str | None = None  # None: label; regression: score; tagging: tags; question answering: answer
    header: bool = True  # the first line of CSV and TSV names the columns
    tag_column: int = -1  # files in columns: where the tag stands
    scheme: Literal["iob1", "iob2", "none"] = "none"  # of the tags; none: each word's tag stands for itself
    low: float | None = None  # the scores' range; None: that of the training file
    high: float | None = None  # likewise
    answerability: bool = False  # there are questions without an answer
    metrics: str | None = None  # with commas between; the first one chooses. None: the usual ones of the kind


def find_task_and_data(task: str | None, data: str | None, own: OwnData) -> "tuple[Task, str]":
    """The task that the arguments name or describe, and where its files are.

    Raises UserError where they name both or neither, or what does not go with the kind.
    """
    from electra_jax.finetune.describe import describe_task
    from electra_jax.finetune.tasks import find_task

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
    found = describe_task(
        own.kind,
        own.train.expanduser(),
        [path.expanduser() for path in own.dev],
        [path.expanduser() for path in own.test],
        text=own.text,
        pair=own.pair,
        label=own.label,
        header=own.header,
        tag_column=own.tag_column,
        scheme=own.scheme,
        low=own.low,
        high=own.high,
        answerability=own.answerability,
        metrics=() if own.metrics is None else tuple(name.strip() for name in own.metrics.split(",")),
    )
    return found, "."


def _options(names: list[str]) -> str:
    return ", ".join("--no-header" if name == "header" else f"--{name.replace('_', '-')}" for name in names)
