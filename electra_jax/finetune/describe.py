"""A task for somebody's own data, from what a command line can say of it."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from electra_jax.errors import UserError
from electra_jax.finetune.reading import read_examples
from electra_jax.finetune.tables import SUFFIXES
from electra_jax.finetune.task import Kind, Layout, Task


def describe_task(
    kind: Kind,
    train: Path,
    dev: Sequence[Path],
    test: Sequence[Path] = (),
    *,
    name: str = "own",
    text: str | None = None,
    pair: str | None = None,
    label: str | None = None,
    header: bool = True,
    tag_column: int = -1,
    scheme: Literal["iob1", "iob2", "none"] = "none",
    low: float | None = None,
    high: float | None = None,
    answerability: bool = False,
    metrics: Sequence[str] = (),
) -> Task:
    """A task whose files are named by their whole paths, for `find_files` in any folder.

    The layout follows from the training file's name. Columns that are not named are looked for under the usual names.
    Regression's range is that of the training scores where it is not given, so the training file is read.
    Raises UserError where a file is missing.
    """
    for path in (train, *dev, *test):
        if not path.is_file():
            raise UserError(f"there is no file {path}: check its name")
    layout = _layout(kind, train)
    given: dict[str, Any] = {"text": text, "pair": pair, "label": label}
    if kind == "question_answering":
        given |= {"epochs": 2.0, "length": 512}
    task = Task(
        name=name,
        kind=kind,
        layout=layout,
        metrics=tuple(metrics) or _metrics(kind, scheme),
        train=str(train.absolute()),
        dev=tuple(str(path.absolute()) for path in dev),
        test=tuple(str(path.absolute()) for path in test),
        header=header,
        tag_column=tag_column,
        scheme=scheme,
        answerability=answerability,
        low=-sys.float_info.max if low is None else low,
        high=sys.float_info.max if high is None else high,
        **{name: value for name, value in given.items() if value is not None},
    )
    if kind != "regression":
        return replace(task, low=Task.low, high=Task.high)
    return _with_range(task, low, high) if low is None or high is None else task


def _with_range(task: Task, low: float | None, high: float | None) -> Task:
    # What is bad in the file ends the reading proper, or is reported there.
    examples = read_examples(task, Path(task.train), skip_bad=True, report=lambda sentence: None)
    scores = [example.label for example in examples if isinstance(example.label, float)]  # type: ignore[union-attr]
    low, high = min(scores) if low is None else low, max(scores) if high is None else high
    if low >= high:
        raise UserError(f"{task.train}: every score is {low:g}: give low and high, or scores that differ")
    return replace(task, low=low, high=high, bounded=False)


def _layout(kind: Kind, train: Path) -> Layout:
    suffix = train.suffix.lower()
    if kind == "question_answering" and suffix == ".json":
        return "squad"
    if kind == "tagging" and suffix not in SUFFIXES:
        return "columns"
    if suffix not in SUFFIXES:
        raise UserError(f"{train} is none of {', '.join(SUFFIXES)}: rename it to what it is, or convert it")
    return "table"


def _metrics(kind: Kind, scheme: str) -> tuple[str, ...]:
    match kind:
        case "classification":
            return ("accuracy", "macro_f1")
        case "regression":
            return ("pearson", "spearman", "mse")
        case "tagging":
            # Without chunks there is nothing but words to count.
            return ("accuracy",) if scheme == "none" else ("f1", "precision", "recall")
        case "question_answering":
            return ("f1", "exact_match")
