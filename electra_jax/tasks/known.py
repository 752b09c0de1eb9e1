"""The known tasks, task files, and where a task's files lie in a folder."""

import difflib
import glob
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from electra_jax.errors import UserError
from electra_jax.settings import from_json
from electra_jax.tasks.layouts import SUFFIXES
from electra_jax.tasks.lines import check_decoded, listed, numbered_lines, place
from electra_jax.tasks.task import Task, with_usual

_TRUTH = ("0", "1")
_ENTAILMENT = ("entailment", "not_entailment")


def _glue(
    name: str,
    text: str,
    pair: str | None = None,
    label: str = "label",
    labels: tuple[str, ...] = _TRUTH,
    metrics: tuple[str, ...] = ("accuracy",),
    dev: tuple[str, ...] = ("dev.tsv",),
    header: bool = True,
    epochs: float = 3.0,
    swap_pairs: bool = False,
    leave_out_broken: bool = False,
) -> Task:
    return Task(
        name=name,
        kind="classification",
        layout="table",
        metrics=metrics,
        labels=labels,
        text=text,
        pair=pair,
        label=label,
        dev=dev,
        header=header,
        epochs=epochs,
        swap_pairs=swap_pairs,
        leave_out_broken=leave_out_broken,
    )


def _squad(name: str, version: str, answerability: bool) -> Task:
    files = {"train": f"train-{version}.json", "dev": (f"dev-{version}.json",)}
    said = {"name": name, "kind": "question_answering", "layout": "squad", "answerability": answerability, **files}
    return Task(**with_usual(said))


_ALL = (
    _glue("cola", "3", label="1", metrics=("matthews",), header=False),
    _glue("sst2", "sentence"),
    _glue("mrpc", "#1 String", "#2 String", "Quality", metrics=("f1", "accuracy"), swap_pairs=True),
    Task(
        name="stsb",
        kind="regression",
        layout="table",
        metrics=("pearson", "spearman"),
        text="sentence1",
        pair="sentence2",
        label="score",
        low=0.0,
        high=5.0,
        epochs=10.0,
        swap_pairs=True,
    ),
    # Some of its rows lack columns, and some a question.
    _glue("qqp", "question1", "question2", "is_duplicate", metrics=("accuracy", "f1"), leave_out_broken=True),
    _glue(
        "mnli",
        "sentence1",
        "sentence2",
        "gold_label",
        labels=("contradiction", "entailment", "neutral"),
        dev=("dev_matched.tsv", "dev_mismatched.tsv"),
    ),
    _glue("qnli", "question", "sentence", labels=_ENTAILMENT),
    _glue("rte", "sentence1", "sentence2", labels=_ENTAILMENT, epochs=10.0),
    _glue("wnli", "sentence1", "sentence2"),
    _squad("squad1", "v1.1", answerability=False),
    _squad("squad2", "v2.0", answerability=True),
    Task(
        name="conll2003",
        kind="tagging",
        layout="columns",
        metrics=("f1", "precision", "recall"),
        train="eng.train",
        dev=("eng.testa",),
        test=("eng.testb",),
        scheme="iob1",
    ),
    # CoNLL-2000 holds nothing out besides its test file.
    Task(
        name="chunking",
        kind="tagging",
        layout="columns",
        metrics=("f1", "precision", "recall"),
        train="train.txt",
        dev=("test.txt",),
        scheme="iob2",
        length=256,
    ),
)
TASKS: dict[str, Task] = {task.name: task for task in _ALL}

# Other names under which the official files go around; the one before a later one.
_OTHER_NAMES: dict[str, tuple[str, ...]] = {
    "eng.train": ("eng.train.txt", "train.txt", "train.conll"),
    "eng.testa": ("eng.testa.txt", "testa.txt", "valid.txt", "dev.txt", "valid.conll", "dev.conll"),
    "eng.testb": ("eng.testb.txt", "testb.txt", "test.txt", "test.conll"),
}


class Files(NamedTuple):
    """Where a task's files are; those that hold out go by their names in results, the main one first."""

    train: Path | None
    dev: dict[str, Path]
    test: dict[str, Path]


def find_task(name_or_file: str) -> Task:
    """A known task by its name, or the task that a JSON file describes.

    Raises UserError where there is no such task, or where the file's settings are not a task's.
    """
    if name_or_file in TASKS:
        return TASKS[name_or_file]
    path = Path(name_or_file).expanduser()
    if path.suffix.lower() == ".json" or path.is_file():
        return read_task(path)
    plain = re.sub("[^a-z0-9]", "", name_or_file.lower())
    if plain in TASKS:
        return TASKS[plain]
    near = difflib.get_close_matches(plain, TASKS, n=3, cutoff=0.5) or sorted(TASKS)
    raise UserError(f"there is no task {name_or_file!r}: choose {' or '.join(near)}, or name a task file (.json)")


def read_task(path: Path) -> Task:
    """The task that a file describes: a JSON object of a Task's settings. What it leaves out is usual for its kind."""
    lines = []
    for number, line in numbered_lines(path):
        check_decoded(line, place(path, number))
        lines.append(line)
    try:
        values = json.loads("".join(lines))
    except json.JSONDecodeError as error:
        raise UserError(f"{place(path, error.lineno)} is not JSON ({error.msg}): mend the task file") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not JSON that can be read: mend the task file") from None
    try:
        return from_json(Task, with_usual(values) if isinstance(values, dict) else values, where=str(path))
    except UserError as error:
        raise error if str(error).startswith(str(path)) else UserError(f"{path}: {error}") from None


def find_files(task: Task, data: Path, training: bool = True) -> Files:
    """A task's files in a folder: by their names, or by others that the same files go by.

    Raises UserError where one is missing; the training file may be where nothing is trained, and so may test files.
    """
    if not data.is_dir():
        raise UserError(f"there is no folder {data}: name the folder that holds {task.name}'s files")
    train = _find(task, data, task.train)
    dev = {name: _find(task, data, name) for name in task.dev}
    test = {name: path for name in task.test if (path := _find(task, data, name)) is not None}
    missing = [name for name, path in ((task.train, train if training else data), *dev.items()) if path is None]
    if missing:
        held = listed(sorted(path.name for path in data.iterdir() if not path.name.startswith(".")))
        raise UserError(
            f"{data} has no {' and no '.join(missing)}, which {task.name} needs, but {held}: name another folder, "
            "or put the file there"
        )
    return Files(train, _named({n: p for n, p in dev.items() if p is not None}, "dev"), _named(test, "test"))


def _find(task: Task, data: Path, name: str) -> Path | None:
    if (data / name).is_file():
        return data / name
    for pattern in _other_names(task, name):
        found = sorted(path for path in data.glob(pattern) if path.is_file() and _may_be(task, path))
        if len(found) > 1:
            names = listed(path.name for path in found)
            raise UserError(f"{data} has no {name} but {names}: rename the one that is meant to {name}")
        if found:
            return found[0]
    return None


def _other_names(task: Task, name: str) -> Iterator[str]:
    path = Path(name)
    if path.is_absolute():
        return
    if task.layout == "squad" and "-" in path.stem:
        yield from (f"{path.stem}*.json", f"{path.stem.split('-')[0]}*.json")
    if task.layout == "columns":
        yield from _OTHER_NAMES.get(name, ())
    if task.layout in (None, "table"):
        stem = path.stem if path.suffix.lower() in SUFFIXES else path.name
        yield f"{glob.escape(stem)}.*"


def _may_be(task: Task, path: Path) -> bool:
    return task.layout not in (None, "table") or path.suffix.lower() in SUFFIXES


def _named(files: dict[str, Path], role: str) -> dict[str, Path]:
    """Short names for results: the role itself where there is one file, else the files' own."""
    if len(files) == 1:
        (path,) = files.values()
        return {role: path}
    stems = [Path(name).stem for name in files]
    different = len(set(stems)) == len(stems)
    return {stem if different else name: path for stem, (name, path) in zip(stems, files.items(), strict=True)}
