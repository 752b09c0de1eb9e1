"""Fine-tuning as a whole: members alone and together, in chunks, killed and resumed, refused."""

import json
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from rich.console import Console
from runs import DEEDS, PEOPLE, THINGS, SmallRun, electra_jax, start

from electra_jax.errors import UserError
from electra_jax.finetune.config import FinetuneConfig, FinetuneRuntime
from electra_jax.finetune.results import MemberResult
from electra_jax.finetune.run import finetune
from electra_jax.finetune.start import open_source
from electra_jax.pretrain.loading import load
from electra_jax.tasks.data import read_data
from electra_jax.tasks.task import Task

TASK = Task(name="deeds", kind="classification", layout="table", metrics=("accuracy", "matthews"), length=32)


def write_deeds(folder: Path, rows: int = 320) -> Path:
    """Sentences whose label is what is done: the first half of the deeds or the second; longer and shorter ones."""
    draw = random.Random(0)
    people, deeds, things = PEOPLE.split("|"), DEEDS.split("|"), THINGS.split("|")
    folder.mkdir()
    for name, count in (("train.tsv", rows), ("dev.tsv", 40)):
        lines = ["text\tlabel"]
        for _ in range(count):
            deed = draw.randrange(len(deeds))
            more = " and ".join(draw.sample(things, draw.randint(1, 4)))
            lines.append(
                f"{draw.choice(people)} {deeds[deed]} {more}\t{'late' if deed >= len(deeds) // 2 else 'early'}"
            )
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def deeds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_deeds(tmp_path_factory.mktemp("deeds") / "data")


def make_config(task: Task, **changes: Any) -> FinetuneConfig:
    settings: dict[str, Any] = {
        "task": task,
        "seeds": (0, 1, 2),
        "learning_rates": (3e-4, 1e-3),
        "epochs": 3.0,
        "evaluations": 2,
        "length": 32,
        "batch_size": 16,
        "layer_decay": 0.8,
        "dropout": 0.1,
        "runtime": FinetuneRuntime(unroll_layers=False),
    }
    return FinetuneConfig(**(settings | changes))


def run(small_run: SmallRun, data: Path, out: Path, **changes: Any) -> list[MemberResult]:
    found = read_data(TASK, str(data))
    config = make_config(found.task, **{"model": str(small_run.run), **changes})
    console = Console(quiet=True)
    return finetune(config, found, open_source(config.model, config.like, print), out, console)


def at_once(count: int) -> FinetuneRuntime:
    return FinetuneRuntime(unroll_layers=False, members_at_once=count)


@pytest.fixture(scope="module")
def together(
    small_run: SmallRun, deeds: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, list[MemberResult]]:
    out = tmp_path_factory.mktemp("together") / "out"
    return out, run(small_run, deeds, out)


def figures(results: list[MemberResult]) -> dict[tuple[int, float], list[dict[str, float]]]:
    """Every member's curve without what the clock said."""
    return {
        result.member: [{k: v for k, v in at.items() if k != "seconds"} for at in result.curve] for result in results
    }


def assert_same(ours: list[MemberResult], theirs: list[MemberResult]) -> None:
    assert figures(ours).keys() == figures(theirs).keys()
    for member, curve in figures(ours).items():
        for one, other in zip(curve, figures(theirs)[member], strict=True):
            assert one == pytest.approx(other, abs=1e-4), member


@pytest.mark.parametrize("count", [1, 4])
def test_members_do_not_depend_on_who_trains_beside_them(small_run, deeds, together, tmp_path, count):
    out, results = together
    chunked = run(small_run, deeds, tmp_path / "out", runtime=at_once(count))
    assert_same(chunked, results)
    ours, theirs = (jax.tree.leaves(load(folder).params) for folder in (tmp_path / "out", out))
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(one, other, atol=2e-5)


def test_members_differ(together):
    """Seeds have their own head, order and dropout; learning rates their own size of step."""
    _, results = together
    first = [result.curve[0]["loss"] for result in results]
    assert len(set(first)) == len(results) == 6


def test_results_are_written(together):
    out, results = together
    written = json.loads((out / "results.json").read_text())
    assert [member["seed"] for member in written["members"]] == [0, 1, 2, 0, 1, 2]
    assert written["metric"] == "accuracy"
    rates = {found["learning_rate"]: found for found in written["by_learning_rate"] if found["metric"] == "accuracy"}
    for rate, found in rates.items():
        finals = [result.final["accuracy"] for result in results if result.learning_rate == rate]
        assert found["median"] == pytest.approx(np.median(finals))
        assert (found["low"], found["high"]) == (min(finals), max(finals))
    best = max(result.final["accuracy"] for result in results)
    saved = written["saved_member"]
    chosen = next(r for r in results if (r.seed, r.learning_rate) == (saved["seed"], saved["learning_rate"]))
    assert chosen.final["accuracy"] == best
    assert not (out / "training").exists()


def test_the_saved_model_is_the_best_member(together, deeds):
    out, results = together
    from electra_jax.finetune.loading import load as load_model

    model = load_model(out)
    measured = model.measure(read_data(model.task, str(deeds)).dev["dev"])
    assert measured["accuracy"] == max(result.final["accuracy"] for result in results)


def test_a_finished_one_is_not_trained_again(small_run, deeds, together):
    out, results = together
    before = (out / "results.json").stat().st_mtime_ns
    assert figures(run(small_run, deeds, out)) == figures(results)
    assert (out / "results.json").stat().st_mtime_ns == before


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"epochs": 4.0}, "epochs: 3.0 → 4.0"),
        ({"head": "huggingface"}, "head: paper → huggingface"),
        ({"seeds": (7,)}, "seeds"),
    ],
)
def test_other_settings_are_refused(small_run, deeds, together, changes, sentence):
    out, _ = together
    with pytest.raises(UserError, match=sentence):
        run(small_run, deeds, out, **changes)


def test_other_data_is_refused(small_run, deeds, together, tmp_path):
    other = tmp_path / "data"
    shutil.copytree(deeds, other)
    lines = (other / "train.tsv").read_text().splitlines()
    (other / "train.tsv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(UserError, match="begun with another training examples"):
        run(small_run, other, together[0])


@pytest.mark.parametrize(
    ("attention", "dropout", "sentence"),
    [
        ("xla", 0.1, "attention xla has no dropout"),
        ("cudnn", 0.0, "attention cudnn computes on a GPU alone, not on a CPU"),
        ("flash", 0.0, "attention flash cannot be told how fine-tuning's members lie on several devices"),
    ],
)
def test_attention_that_cannot_be_computed_is_refused(small_run, deeds, tmp_path, attention, dropout, sentence):
    runtime = FinetuneRuntime(attention=attention)
    with pytest.raises(UserError, match=sentence):
        run(small_run, deeds, tmp_path / "out", dropout=dropout, runtime=runtime)
    assert not (tmp_path / "out").exists()


def test_a_member_that_diverges_leaves_the_others_alone(small_run, deeds, together, tmp_path):
    """Also where a whole chunk of members diverges, as the second one here."""
    out = tmp_path / "out"
    results = run(small_run, deeds, out, learning_rates=(3e-4, 1e30), runtime=at_once(3))
    assert [result.diverged for result in results] == [False] * 3 + [True] * 3
    assert_same(results[:3], together[1][:3])
    written = json.loads((tmp_path / "out" / "results.json").read_text())
    assert written["saved_member"]["learning_rate"] == 3e-4
    assert [found["diverged"] for found in written["by_learning_rate"]] == [0, 0, 3, 3]
    assert written["of_seeds"] == 3
    assert written["best"] == max(result.final["accuracy"] for result in results[:3])
    last = [found["curve"][-1]["loss"] for found in written["members"]]
    assert all(loss > 0 for loss in last[:3])
    assert last[3:] == [None] * 3  # every update of theirs was left out, so there is no loss to tell


def test_random_weights_of_the_same_sizes(small_run, deeds, tmp_path):
    """Every seed draws its own encoder."""
    results = run(small_run, deeds, tmp_path / "out", model="none", like=str(small_run.run), learning_rates=(1e-3,))
    assert len({result.curve[0]["loss"] for result in results}) == 3


def test_begins_with_an_earlier_fine_tuning(small_run, deeds, together, tmp_path):
    out, _ = together
    results = run(small_run, deeds, tmp_path / "out", model=str(out), seeds=(0,), learning_rates=(1e-3,))
    fresh = next(result for result in together[1] if result.member == (0, 1e-3))
    assert results[0].curve[0]["loss"] < fresh.curve[0]["loss"]


def finetune_args(small_run: SmallRun, data: Path, out: Path, task: Path) -> list[str]:
    task.write_text(json.dumps({"name": "deeds", "kind": "classification", "layout": "table", "metrics": ["accuracy"]}))
    return [
        "finetune", "--model", str(small_run.run), "--task", str(task), "--data", str(data), "--out", str(out),
        "--seeds", "3", "--learning-rates", "3e-4,1e-3", "--epochs", "6", "--length", "32", "--batch-size", "16",
        "--dropout", "0.1", "--runtime.no-unroll-layers", "--runtime.members-at-once", "4",
    ]  # fmt: skip


@pytest.mark.slow
def test_killed_and_resumed_it_ends_the_same(small_run, deeds, tmp_path):
    """With SIGKILL, twice, and with SIGTERM: the results are those of an undisturbed run to the bit."""
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    task = tmp_path / "task.json"
    electra_jax(*finetune_args(small_run, deeds, undisturbed, task), check=True)
    for number, signum in enumerate((signal.SIGKILL, signal.SIGTERM, signal.SIGKILL)):
        process = start(*finetune_args(small_run, deeds, killed, task), "--runtime.save-minutes", "0.005")
        wait_for_checkpoint(killed, process, beyond=20 * (number + 1))
        process.send_signal(signum)
        _, errors = process.communicate(timeout=120)
        assert process.returncode == (143 if signum == signal.SIGTERM else -9), errors
        assert b"Traceback" not in errors
        assert not (killed / "results.json").exists()
    electra_jax(*finetune_args(small_run, deeds, killed, task), check=True)
    ours, theirs = (json.loads((folder / "results.json").read_text())["members"] for folder in (killed, undisturbed))
    assert figures([MemberResult(**member) for member in ours]) == figures(
        [MemberResult(**member) for member in theirs]
    )


def wait_for_checkpoint(out: Path, process: Any, beyond: int) -> None:
    """Until a checkpoint of a later step than `beyond` is there, or the first chunk has ended."""
    until = time.monotonic() + 120
    while time.monotonic() < until and process.poll() is None:
        saved = [int(path.name) for path in (out / "training" / "checkpoints").glob("[0-9]*") if path.name.isdecimal()]
        if max(saved, default=0) > beyond or (out / "members" / "0").is_dir():
            return
        time.sleep(0.02)
    raise AssertionError(f"no checkpoint came: {process.communicate(timeout=10)}")
