"""Kills at the worst moments, by the files they leave: the same command ends as if nothing had happened."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rich.console import Console
from tiny_models import assert_trees_equal

from electra_jax.errors import Interrupted, UserError
from electra_jax.files import new_folder, write_json
from electra_jax.finetune.config import FinetuneRuntime
from electra_jax.finetune.finetuned import FineTuned
from electra_jax.finetune.folder import keep_most_at_once, read_settings
from electra_jax.finetune.loading import load
from electra_jax.finetune.results import MemberResult
from electra_jax.finetune.run import finetune
from electra_jax.finetune.start import open_again
from electra_jax.tasks.data import read_data
from electra_jax.tasks.describe import describe_task
from electra_jax.training.workdir import own
from tests.finetune.test_finetune_run import figures, write_deeds
from tests.finetune.tiny_programs import tiny_config, tiny_source

pytestmark = pytest.mark.slow
RUNTIME = FinetuneRuntime(unroll_layers=False, members_at_once=1, save_minutes=0.0)  # a checkpoint after every step
STEPS = 6  # two epochs of 48 rows


class Listener(Console):
    """Does something to the folder when the fine-tuning tells of something, and notes what it has told."""

    def __init__(self, *deeds: Callable[[], None]):
        super().__init__(quiet=True)
        self.deeds, self.told = list(deeds), list[str]()

    def print(self, *objects: Any, **options: Any) -> None:
        self.told.append(" ".join(map(str, objects)))
        if self.deeds:
            self.deeds.pop(0)()


def nothing() -> None:
    """Lets a message pass."""


class States(NamedTuple):
    """An undisturbed fine-tuning, and its folder at earlier moments."""

    data: Path
    results: list[MemberResult]
    out: Path  # at the end
    begun: Path  # in the midst of the second chunk
    training: Path  # `training/` alone, at the last evaluation of the first chunk
    written: Path  # when everything was there but results.json


def run(data: Path, out: Path, *deeds: Callable[[], None], **changes: Any) -> tuple[list[MemberResult], list[str]]:
    """Two seeds, one after the other; also what was told."""
    task = describe_task("classification", data / "train.tsv", [data / "dev.tsv"])
    found = read_data(task, str(data))
    usual = {"seeds": (0, 1), "epochs": 2.0, "batch_size": 16, "evaluations": 2, "runtime": RUNTIME}
    usual |= {"length": 8}  # to which all rows are cut: one shape to compile
    config = tiny_config(task=found.task, **usual | changes)
    listener = Listener(*deeds)
    return finetune(config, found, tiny_source(), out, listener), listener.told


def wait_for_checkpoint(out: Path, step: int) -> None:
    """Until it is whole and the one before it is gone, so that nothing changes while it is copied."""
    folder, until = out / "training" / "checkpoints", time.monotonic() + 60
    while [path.name for path in folder.glob("*")] != [str(step)] or not (folder / str(step) / "seal.json").is_file():
        assert time.monotonic() < until, sorted(folder.glob("*"))
        time.sleep(0.01)


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> States:
    folder = tmp_path_factory.mktemp("faults")
    data, out = write_deeds(folder / "data", rows=48), folder / "out"
    begun, training, written = folder / "begun", folder / "training", folder / "written"

    def block_results() -> None:
        (out / "results.json").mkdir()  # where no file can be written

    def keep_training() -> None:
        wait_for_checkpoint(out, STEPS - 1)
        shutil.copytree(out / "training", training)

    def keep_begun() -> None:
        wait_for_checkpoint(out, STEPS // 2 - 1)
        shutil.copytree(out, begun)
        (begun / "results.json").rmdir()

    with pytest.raises(OSError, match=r"results\.json"):
        run(data, out, block_results, nothing, nothing, keep_training, keep_begun)
    (out / "results.json").rmdir()
    shutil.copytree(out, written)
    results, _ = run(data, out)
    assert [result.seed for result in results] == [0, 1]
    assert {path.name for path in (begun / "members").iterdir()} == {"0"}
    assert json.loads((begun / "training" / "members.json").read_text())[0]["seed"] == 1
    assert json.loads((training / "members.json").read_text())[0]["seed"] == 0
    assert (written / "members" / "1" / "checkpoints" / "0").is_dir()
    return States(data, results, out, begun, training, written)


@pytest.fixture
def begun(states: States, tmp_path: Path) -> Path:
    return Path(shutil.copytree(states.begun, tmp_path / "out"))


def assert_ended_as(states: States, out: Path, results: list[MemberResult]) -> None:
    """The same figures and the same model, to the bit, and nothing left over."""
    assert figures(results) == figures(states.results)
    assert_trees_equal(load(out).params, load(states.out).params)
    ours, theirs = (
        sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if "checkpoints" not in path.parts)
        for folder in (out, states.out)
    )
    assert ours == theirs
    assert "training" not in ours


def test_killed_between_the_results_of_a_chunk_and_its_tidying(states: States, begun: Path) -> None:
    """Its training/ is still there: neither does it train again, nor does the next chunk take its checkpoint."""
    shutil.rmtree(begun / "training")
    shutil.copytree(states.training, begun / "training")
    results, told = run(states.data, begun)
    assert_ended_as(states, begun, results)
    assert not any("resuming" in line for line in told)


def test_stopped_in_the_last_evaluation(states: States, tmp_path: Path) -> None:
    """What was measured is saved, as the message says: started again, nothing trains and nothing is measured."""
    out = tmp_path / "out"
    stop = partial(os.kill, os.getpid(), signal.SIGTERM)
    with pytest.raises(Interrupted):
        run(states.data, out, nothing, nothing, nothing, stop, seeds=(0,))
    assert (out / "training" / "checkpoints" / str(STEPS) / "seal.json").is_file()
    results, told = run(states.data, out, seeds=(0,))
    assert figures(results) == figures(states.results[:1])
    assert any(f"resuming 1 members at step {STEPS}" in line for line in told)
    assert not any("epoch" in line for line in told)


def test_killed_before_the_first_checkpoint(begun: Path, states: States) -> None:
    """Nothing was trained, so other settings are welcome: the members that had begun are not trained for them."""
    shutil.rmtree(begun / "members")
    shutil.rmtree(begun / "training" / "checkpoints")
    results, _ = run(states.data, begun, seeds=(0,))
    assert figures(results) == figures(states.results[:1])
    assert json.loads((begun / "finetune.json").read_text())["settings"]["seeds"] == [0]


def test_other_chunks_than_those_that_had_begun_without_a_checkpoint(begun: Path, states: States) -> None:
    """Where they did not fit the memory, fewer at once are asked for."""
    shutil.rmtree(begun / "training")
    with new_folder(begun / "training") as folder:
        write_json(folder / "members.json", [{"seed": seed, "learning_rate": 1e-3} for seed in (0, 1)])
    results, _ = run(states.data, begun)
    assert_ended_as(states, begun, results)


def test_a_chunk_whose_folder_was_removed_trains_again(states: States, tmp_path: Path) -> None:
    """As the message about a damaged one advises, whichever it was."""
    out = Path(shutil.copytree(states.written, tmp_path / "out"))
    (out / "members" / "0" / "members.json").write_text("{")
    with pytest.raises(UserError, match="remove its folder"):
        run(states.data, out)
    shutil.rmtree(out / "members" / "0")
    results, _ = run(states.data, out)
    assert figures(results) == figures(states.results)


def test_a_second_process_changes_nothing(states: States, begun: Path) -> None:
    """It is refused before it writes its own settings, whatever was trained yet."""
    shutil.rmtree(begun / "members")
    shutil.rmtree(begun / "training")
    before = (begun / "finetune.json").read_text()
    with own(begun), pytest.raises(UserError, match="another process"):
        run(states.data, begun, seeds=(5,))
    assert (begun / "finetune.json").read_text() == before


def test_killed_in_a_later_chunk(states: States, begun: Path, tmp_path: Path) -> None:
    """It goes on from that chunk's checkpoint; the data may have moved meanwhile."""
    moved = Path(shutil.copytree(states.data, tmp_path / "moved"))
    results, told = run(moved, begun)
    assert_ended_as(states, begun, results)
    assert any("resuming 1 members at step 2" in line for line in told)


def test_other_examples_under_the_same_names_are_refused(states: States, begun: Path, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(states.data, tmp_path / "moved"))
    dev = (moved / "dev.tsv").read_text()
    (moved / "dev.tsv").write_text(dev.replace("the", "a", 1))
    with pytest.raises(UserError, match="begun with another held-out examples"):
        run(moved, begun)


@pytest.mark.parametrize("changes", [{"evaluations": 3}, {"epochs": 3.0}, {"dropout": 0.0}])
def test_other_settings_are_refused_after_a_chunk(states: States, tmp_path: Path, changes: dict[str, Any]) -> None:
    """Their curves would not go together. Nothing is touched but the lock."""
    begun = states.begun
    before = {path: path.stat().st_mtime_ns for path in begun.rglob("*") if path.name != ".lock"}
    (name,) = changes
    with pytest.raises(UserError, match=rf"begun with other settings \({name}: .* → "):
        run(states.data, begun, **changes)
    assert {path: path.stat().st_mtime_ns for path in begun.rglob("*") if path.name != ".lock"} == before


def drop_model(out: Path) -> None:
    (out / "model.json").unlink()


def drop_weights(out: Path) -> None:
    drop_model(out)
    shutil.rmtree(out / "checkpoints")


def break_weights(out: Path) -> None:
    drop_model(out)
    (out / "checkpoints" / "0" / "seal.json").unlink()
    largest = max((path for path in (out / "checkpoints").rglob("*") if path.is_file()), key=lambda p: p.stat().st_size)
    largest.write_bytes(largest.read_bytes()[:100])


def break_tokenizer(out: Path) -> None:
    drop_weights(out)
    files = sorted((out / "tokenizer").iterdir())
    files[0].unlink()
    files[-1].write_bytes(files[-1].read_bytes()[:10])


@pytest.mark.parametrize("harm", [None, drop_model, drop_weights, break_weights, break_tokenizer])
def test_killed_while_the_model_is_written(states: States, harm: Callable[[Path], None] | None, tmp_path: Path) -> None:
    """Nothing trains again, and nobody takes what is there for a model before results.json says so."""
    out = Path(shutil.copytree(states.written, tmp_path / "out"))
    if harm is not None:
        harm(out)
    with pytest.raises(UserError, match="has not ended"):
        load(out)
    results, told = run(states.data, out)
    assert_ended_as(states, out, results)
    assert not any("epoch" in line for line in told)
    assert (out / "results.json").is_file()


def test_what_it_began_with_is_kept_until_it_has_ended(states: States) -> None:
    """A pre-training run goes on and drops the step that a fine-tuning began with, or is gone."""
    source = tiny_source()
    (model,) = {tiny_config().model}
    kept = open_again(states.begun, model, None, print)
    assert_trees_equal(kept.params, source.params)
    assert (kept.model.networks, kept.step) == (source.model.networks, source.step)
    assert not (states.out / "start").exists()
    assert isinstance(open_again(states.out, model, None, print), FineTuned)  # enough to show what came of it
    with pytest.raises(UserError, match="gone"):
        open_again(states.begun, "gone", None, print)
    with pytest.raises(UserError, match=model):
        open_again(states.begun, model, None, print, step=source.step + 1)


def test_resumed_where_more_memory_is_free(begun: Path) -> None:
    """As many members train at once as at the first start, for a chunk of another size would round otherwise."""
    assert keep_most_at_once(begun, 7) == 7
    assert keep_most_at_once(begun, 3) == 7
    assert read_settings(begun)[0].seeds == (0, 1)


def test_a_finished_one_accepts_moved_data(states: States, tmp_path: Path) -> None:
    moved = Path(shutil.copytree(states.data, tmp_path / "moved"))
    results, told = run(moved, states.out)
    assert figures(results) == figures(states.results)
    assert told[-1].endswith("is finished")
