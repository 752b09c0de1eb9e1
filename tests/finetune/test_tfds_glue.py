"""GLUE as TensorFlow Datasets keeps it on disk, with and without TensorFlow, and what is said where it is not there."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from electra_jax.errors import UserError
from electra_jax.tasks.data import read_data
from electra_jax.tasks.examples import TextExample
from electra_jax.tasks.known import TASKS

Rows = dict[str, list[dict[str, Any]]]
SST2: Rows = {
    "train": [{"sentence": "dull ", "label": 0, "idx": 0}, {"sentence": "café", "label": 1, "idx": 1}],
    "validation": [{"sentence": "so so", "label": 1, "idx": 0}],
}


def prepare(data_dir: Path, name: str, rows: Rows, labels: list[str] | None) -> None:
    """Writes a data set where and as TFDS's own preparation does."""
    tfds = pytest.importorskip("tensorflow_datasets")
    folder = data_dir / "glue" / name / "2.0.0"
    folder.mkdir(parents=True)
    features = {
        key: tfds.features.Scalar(np.int32) if key == "idx" else tfds.features.Text()
        for key in next(iter(rows.values()))[0]
    }
    label = tfds.features.Scalar(np.float32) if labels is None else tfds.features.ClassLabel(names=labels)
    identity = tfds.core.dataset_info.DatasetIdentity(
        name="glue", version=tfds.core.Version("2.0.0"), data_dir=str(folder), module_name="glue", config_name=name
    )
    info = tfds.core.DatasetInfo(builder=identity, features=tfds.features.FeaturesDict(features | {"label": label}))
    writer = tfds.core.SequentialWriter(info, 100, file_format="array_record")
    writer.initialize_splits(list(rows))
    writer.add_examples(rows)
    writer.close_all()


def test_labels_go_by_number_where_the_files_have_numbers(tmp_path: Path) -> None:
    prepare(tmp_path, "sst2", SST2, ["negative", "positive"])
    data = read_data(TASKS["sst2"], f"tfds:{tmp_path}")
    assert data.train == [
        TextExample("dull ", None, "0", "glue/sst2, train example 0"),
        TextExample("café", None, "1", "glue/sst2, train example 1"),
    ]
    assert data.dev == {"dev": [TextExample("so so", None, "1", "glue/sst2, validation example 0")]}
    assert data.task == TASKS["sst2"]


def test_labels_go_by_name_where_the_files_have_names(tmp_path: Path) -> None:
    names = ["entailment", "neutral", "contradiction"]  # another order than the task's
    rows = [{"premise": "A", "hypothesis": "B", "label": number} for number in range(3)]
    splits = ("train", "validation_matched", "validation_mismatched")
    prepare(tmp_path, "mnli", dict.fromkeys(splits, rows), names)
    data = read_data(TASKS["mnli"], f"tfds:{tmp_path}")
    assert list(data.dev) == ["dev_matched", "dev_mismatched"]
    for examples in (data.train, *data.dev.values()):
        assert [example.label for example in examples if isinstance(example, TextExample)] == names


def test_scores_and_what_is_wrong_in_them(tmp_path: Path) -> None:
    def row(score: float) -> dict[str, Any]:
        return {"sentence1": "A", "sentence2": "B", "label": score}

    prepare(tmp_path, "stsb", {"train": [row(3.75), row(0)], "validation": [row(9), row(5)]}, None)
    with pytest.raises(UserError, match=r"glue/stsb, validation example 0: the score .* is not within"):
        read_data(TASKS["stsb"], f"tfds:{tmp_path}")
    data = read_data(TASKS["stsb"], f"tfds:{tmp_path}", skip_bad=True, report=lambda sentence: None)
    assert [example.label for example in data.train if isinstance(example, TextExample)] == [3.75, 0.0]
    assert len(data.dev["dev"]) == 1


def test_a_label_that_is_hidden_and_a_split_that_is_missing(tmp_path: Path) -> None:
    prepare(tmp_path, "rte", {"train": [{"sentence1": "A", "sentence2": "B", "label": -1}]}, list(TASKS["rte"].labels))
    with pytest.raises(UserError, match=r"glue/rte, train example 0 has no label"):
        read_data(TASKS["rte"], f"tfds:{tmp_path}")
    with pytest.raises(UserError, match=r"glue/rte has no split 'validation': it has 'train'"):
        read_data(TASKS["rte"], f"tfds:{tmp_path}", training=False)


def test_what_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^glue/cola is not prepared in .*GLUE's files$") as caught:
        read_data(TASKS["cola"], f"tfds:{tmp_path}")
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())  # nothing was fetched
    with pytest.raises(UserError, match=r"TFDS has no squad1 in GLUE, but 'cola'"):
        read_data(TASKS["squad1"], f"tfds:{tmp_path}")
    with pytest.raises(UserError, match=r"there is no folder .*nowhere"):
        read_data(TASKS["cola"], f"tfds:{tmp_path / 'nowhere'}")


WITHOUT = """
import sys
from importlib.machinery import PathFinder
class Hidden(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in {names} else PathFinder.find_spec(name, path, target)
sys.meta_path = [Hidden if finder is PathFinder else finder for finder in sys.meta_path]
from electra_jax.errors import UserError
from electra_jax.tasks.data import read_data
from electra_jax.tasks.known import TASKS
for name in ("sst2", "cola"):
    try:
        print(len(read_data(TASKS[name], "tfds:" + sys.argv[1]).train))
    except UserError as error:
        print(error)
"""


def without(names: set[str], data_dir: Path) -> list[str]:
    """What is said about sst2 and cola by a Python that lacks these packages."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    program = [sys.executable, "-c", WITHOUT.format(names=names), str(data_dir)]
    run = subprocess.run(program, capture_output=True, text=True, check=False, env=environment)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_prepared_data_needs_no_tensorflow(tmp_path: Path) -> None:
    prepare(tmp_path, "sst2", SST2, ["negative", "positive"])
    read, refused = without({"tensorflow"}, tmp_path)
    assert read == "2"
    assert refused.startswith(f"glue/cola is not prepared in {tmp_path}: run ")
    assert "electra-jax[tf]" in refused


def test_without_tfds_one_sentence_says_so(tmp_path: Path) -> None:
    for sentence in without({"tensorflow_datasets"}, tmp_path):
        assert sentence.endswith("needs the package tensorflow-datasets: pip install tensorflow-datasets")
