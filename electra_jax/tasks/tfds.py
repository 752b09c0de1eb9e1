"""GLUE through TensorFlow Datasets, where it is installed and the data is on this machine already."""

import importlib.util
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from electra_jax.errors import UserError
from electra_jax.tasks.examples import Example
from electra_jax.tasks.lines import Refusals, listed
from electra_jax.tasks.records import text_of
from electra_jax.tasks.task import Task


class _Source(NamedTuple):
    """What TFDS calls a task's fields and the splits that hold out."""

    text: str
    pair: str | None = None
    dev: tuple[str, ...] = ("validation",)


_SOURCES = {
    "cola": _Source("sentence"),
    "sst2": _Source("sentence"),
    "mrpc": _Source("sentence1", "sentence2"),
    "stsb": _Source("sentence1", "sentence2"),
    "qqp": _Source("question1", "question2"),
    "mnli": _Source("premise", "hypothesis", ("validation_matched", "validation_mismatched")),
    "qnli": _Source("question", "sentence"),
    "rte": _Source("sentence1", "sentence2"),
    "wnli": _Source("sentence1", "sentence2"),
}


def held_out_splits(task: Task) -> dict[str, str]:
    """The splits that hold out, by the names that results have for the files of a folder."""
    splits = _source(task).dev
    return dict(zip(("dev",) if len(splits) == 1 else [Path(name).stem for name in task.dev], splits, strict=True))


def read_tfds(
    task: Task,
    split: str,
    data_dir: Path | None = None,
    skip_bad: bool = False,
    report: Callable[[str], None] = print,
) -> list[Example]:
    """The labelled examples of a split of a GLUE task, from `data_dir` or from TFDS's own folder. Nothing is fetched.

    Raises UserError where TFDS, the data set or the split is not here.
    """
    source, name = _source(task), f"glue/{task.name}"
    builder = _builder(name, data_dir)
    if split not in builder.info.splits:
        raise UserError(f"{name} has no split {split!r}: it has {listed(builder.info.splits)}")
    refusals, examples = Refusals(skip_bad, skip_broken=task.leave_out_broken), []
    names = _label_names(task, builder.info.features)
    for number, record in enumerate(_records(builder, split, name)):
        where = f"{name}, {split} example {number}"
        try:
            fields = {"text": _text(record[source.text]), "label": record["label"]}
            if source.pair is not None:
                fields["pair"] = _text(record[source.pair])
            if names:
                if not 0 <= fields["label"] < len(names):  # -1 in the test splits
                    raise UserError(f"{where} has no label")
                fields["label"] = names[int(fields["label"])]
            examples.append(text_of(task, fields, where, labelled=True))
        except KeyError as error:
            raise UserError(
                f"{where} has no field {error} but {listed(record)}: is this GLUE as TFDS has it?"
            ) from None
        except UserError as error:
            refusals.take(error)
    refusals.tell(f"{name} {split}", report)
    if not examples:
        raise UserError(f"{name} has no examples in {split}: prepare it again")
    return list(examples)


def check_prepared(task: Task, data_dir: Path | None) -> None:
    """Raises UserError, with what to do, where a task is not ready to be read."""
    _builder(f"glue/{task.name}", data_dir)


def _source(task: Task) -> _Source:
    if task.name not in _SOURCES:
        raise UserError(f"TFDS has no {task.name} in GLUE, but {listed(_SOURCES)}: name a folder of files instead")
    return _SOURCES[task.name]


def _builder(name: str, data_dir: Path | None) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise UserError(f"{name} needs the package tensorflow-datasets: pip install tensorflow-datasets") from None
    folder = data_dir if data_dir is not None else os.environ.get("TFDS_DATA_DIR")
    here = f"in {folder}" if folder is not None else "on this machine"
    has_tensorflow = importlib.util.find_spec("tensorflow") is not None
    needs = "" if has_tensorflow else " where TensorFlow is (pip install 'electra-jax[tf]')"
    not_prepared = (
        f"{name} is not prepared {here}: run tfds.builder({name!r}, file_format='array_record').download_and_prepare() "
        f"once{needs}, or name a folder of GLUE's files"
    )
    try:
        builder = tfds.builder(name, try_gcs=False, data_dir=folder)
    except Exception as error:  # what TFDS raises differs by what is installed
        why = str(error).strip().splitlines()[:1] or [type(error).__name__]
        raise UserError(f"{name} cannot be opened {here}: {why[0]}" if has_tensorflow else not_prepared) from None
    if not list(builder.info.splits):
        raise UserError(not_prepared)
    return builder


def _records(builder: Any, split: str, name: str) -> Iterator[dict[str, Any]]:
    if builder.info.file_format is not None and builder.info.file_format.value == "array_record":
        rows = builder.as_data_source(split)
        return (rows[number] for number in range(len(rows)))
    if importlib.util.find_spec("tensorflow") is None:
        raise UserError(
            f"{name} was prepared as {builder.info.file_format}, which needs TensorFlow to read: pip install "
            "'electra-jax[tf]', or prepare it with file_format='array_record'"
        )
    import tensorflow_datasets as tfds

    return iter(tfds.as_numpy(builder.as_dataset(split=split, shuffle_files=False)))


def _label_names(task: Task, features: Any) -> tuple[str, ...]:
    """The task's labels in the order of TFDS's numbers: by TFDS's names where the task has those, else by number."""
    if task.kind == "regression":
        return ()
    names = tuple(features["label"].names)
    if set(names) == set(task.labels):
        return names
    if tuple(map(str, range(len(names)))) == task.labels:  # what GLUE's own files have
        return task.labels
    raise UserError(
        f"glue/{task.name} has the labels {listed(names)}, and the task {listed(task.labels)}: mend the task"
    )


def _text(value: Any) -> Any:
    return value.decode("utf-8", "surrogateescape") if isinstance(value, bytes) else value
