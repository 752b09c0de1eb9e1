"""A task of one's own: the same from the command line and from a file, with what is usual where nothing was said."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from electra_jax.errors import UserError
from electra_jax.finetune.config import FinetuneConfig
from electra_jax.finetune.folder import claim, create
from electra_jax.tasks.data import read_data
from electra_jax.tasks.describe import describe_task
from electra_jax.tasks.examples import TextExample
from electra_jax.tasks.known import find_task
from electra_jax.tasks.reading import read_examples
from electra_jax.tasks.task import Kind
from tests.tasks.own_files import SCORES, TEXTS, write


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("classification", {"text": "review", "label": "stars", "header": False}),
        ("regression", {"pair": "other"}),
        ("regression", {"low": 0.0, "high": 5.0, "metrics": ["mse"]}),
        ("tagging", {"layout": "columns", "word_column": 1, "tag_column": 3}),
        ("tagging", {"scheme": "iob1"}),
        ("question_answering", {"answerability": True}),
    ],
)
def test_a_task_file_and_the_command_line_say_the_same(tmp_path: Path, kind: Kind, said: dict[str, object]) -> None:
    write(tmp_path, dict.fromkeys(("train.tsv", "dev.tsv"), "x\n"))
    train, dev = (str(tmp_path / name) for name in ("train.tsv", "dev.tsv"))
    described = {"name": "own", "kind": kind, "train": train, "dev": [dev]} | said
    (tmp_path / "task.json").write_text(json.dumps(described), encoding="utf-8")
    typed = {name: tuple(value) if isinstance(value, list) else value for name, value in said.items()}
    assert find_task(str(tmp_path / "task.json")) == describe_task(kind, Path(train), [Path(dev)], **typed)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"kind": "classification", "layout": "columns"}, "the layout columns is for tagging, not for classification"),
        ({"kind": "tagging", "layout": "squad"}, "the layout squad is for question_answering, not for tagging"),
        ({"kind": "tagging", "dev": ["a.json", "a.json"]}, "name each file once, not a.json, a.json"),
        ({"kind": "tagging", "test": ["b", "a", "b"]}, "name each file once, not b, a, b"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    tmp_path: Path, changes: dict[str, object], sentence: str
) -> None:
    (tmp_path / "own.json").write_text(json.dumps({"name": "x"} | changes), encoding="utf-8")
    with pytest.raises(UserError, match=rf"own\.json: .*{sentence}"):
        find_task(str(tmp_path / "own.json"))


def test_a_bound_that_is_given_bounds_and_what_the_training_file_has_does_not(tmp_path: Path) -> None:
    scores = {"train.tsv": ("1", "3"), "high.tsv": ("4",), "low.tsv": ("-1",)}
    write(tmp_path, {name: "text\tscore\n" + "".join(f"a\t{s}\n" for s in held) for name, held in scores.items()})
    train, high, low = (tmp_path / name for name in scores)
    assert read_data(describe_task("regression", train, [high], low=0.0), ".").task.scale == (0, 3)
    with pytest.raises(UserError, match=r"low\.tsv, line 2: the score '-1' is not within the task's 0 to inf"):
        read_data(describe_task("regression", train, [low], low=0.0), ".")
    bounded_above = read_data(describe_task("regression", train, [low], high=3.0), ".").task
    assert bounded_above.scale == (1, 3)
    with pytest.raises(UserError, match=r"high\.tsv, line 2: the score '4' is not within the task's -inf to 3"):
        read_examples(bounded_above, high)
    assert read_data(describe_task("regression", train, [low, high]), ".").task.scale == (1, 3)


def test_a_name_that_was_said_is_not_overruled_by_a_usual_one(tmp_path: Path) -> None:
    """Also where it is a usual one itself."""
    path = tmp_path / "a.tsv"
    path.write_text("sentence\ttext\tlabel\tscore\nA.\tB.\t1\t2\n", encoding="utf-8")
    for said, expected in (
        ({"label": None}, ("B.", 2.0)),
        ({"text": "sentence", "label": "label"}, ("A.", 1.0)),
        ({"text": "text", "label": "score"}, ("B.", 2.0)),
        ({"text": "text", "label": "label"}, ("B.", 1.0)),
    ):
        (found,) = read_examples(replace(SCORES, **said), path)  # type: ignore[arg-type]
        assert isinstance(found, TextExample)
        assert (found.text, found.label) == expected
    path.write_text("sentence\tlabel\nA.\t1\n", encoding="utf-8")
    assert len(read_examples(TEXTS, path)) == 1
    with pytest.raises(UserError, match="no column 'text', for it has 'sentence', 'label'"):
        read_examples(replace(TEXTS, text="text"), path)


def test_a_fine_tuning_goes_on_though_the_words_for_its_files_have_changed(tmp_path: Path) -> None:
    """What was read of them is the same by its checksum; the range of the scores is another matter."""
    old = FinetuneConfig(
        task=replace(SCORES, text="text"), model="m", seeds=(0,), learning_rates=(1e-3,), epochs=1.0, length=32,
        layer_decay=1.0,
    )  # fmt: skip
    out, origin = tmp_path / "out", {"training examples": "x", "held-out examples": "y", "model": "z", "step": 0}
    create(out, old, origin)
    (out / "members").mkdir()  # something was trained
    unsaid = replace(old, task=replace(old.task, layout=None, text=None, label=None))
    assert claim(out, unsaid, origin) == old
    with pytest.raises(UserError, match=r"begun with other settings \(task\.high: 5\.0 → 6\.0\)"):
        claim(out, replace(old, task=replace(old.task, high=6.0)), origin)
    with pytest.raises(UserError, match="begun with another training examples"):
        claim(out, unsaid, origin | {"training examples": "other"})
