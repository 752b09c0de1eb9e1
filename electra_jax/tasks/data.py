"""All of a task's data: from a folder of its files, or through TFDS."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

from electra_jax.errors import UserError
from electra_jax.tasks.examples import Example, QuestionExample
from electra_jax.tasks.known import find_files
from electra_jax.tasks.lines import noting
from electra_jax.tasks.reading import read_examples, with_labels, with_range
from electra_jax.tasks.task import Task
from electra_jax.tasks.tfds import held_out_splits, read_tfds

TFDS = "tfds"


class Data(NamedTuple):
    """A task that has its labels, and its examples; the first of `dev` is the main one."""

    task: Task
    train: Sequence[Example]  # empty where nothing is trained
    dev: dict[str, list[Example]]
    test: dict[str, list[Example]]
    notes: tuple[str, ...] = ()  # what a reader of the results must know: files that stand in, places left out


def read_data(
    task: Task, data: str, training: bool = True, skip_bad: bool = False, report: Callable[[str], None] = print
) -> Data:
    """Reads what `data` names: a folder, `tfds`, or `tfds:` and the folder of prepared data sets.

    Raises UserError for what is missing or wrong, such as a label that the training examples do not have.
    """
    notes, tell = noting(report)
    if is_tfds(data):
        folder = tfds_folder(data)
        splits = held_out_splits(task)
        train = read_tfds(task, "train", folder, skip_bad, tell) if training else []
        dev = {name: read_tfds(task, split, folder, skip_bad, tell) for name, split in splits.items()}
        return Data(task, train, dev, {}, tuple(notes))
    files = find_files(task, Path(data).expanduser(), training)
    read = partial(read_examples, skip_bad=skip_bad, report=tell, layout=task.layout)
    if task.layout == "squad":
        expected = {task.train: files.train, **dict(zip(task.dev, files.dev.values(), strict=True))}
        for name, path in expected.items():
            if path is not None and path.name != Path(name).name:
                tell(f"{path} stands in for {name}")
    train = []
    if training and files.train is not None:
        train = read(task, files.train)
        task = with_range(with_labels(task, train), train)
        if task.answerability and not any(isinstance(e, QuestionExample) and e.is_impossible for e in train):
            raise UserError(
                f"every question of {files.train} has an answer, so there is nothing to learn for {task.name}: name a "
                "training file with impossible ones, or a task without answerability, as squad1"
            )
    dev = {name: read(task, path) for name, path in files.dev.items()}
    test = {name: read(task, path) for name, path in files.test.items()}
    return Data(task, train, dev, test, tuple(notes))


def is_tfds(data: str) -> bool:
    """Whether `data` names TFDS rather than a folder of files."""
    return data == TFDS or data.startswith(f"{TFDS}:")


def tfds_folder(data: str) -> Path | None:
    """The folder of prepared data sets that `tfds:` names; None for TFDS's own. Raises UserError where it is none."""
    folder = Path(data.removeprefix(f"{TFDS}:")).expanduser() if data != TFDS else None
    if folder is not None and not folder.is_dir():
        raise UserError(f"there is no folder {folder}: name the one that TFDS keeps its data sets in")
    return folder
