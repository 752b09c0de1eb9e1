"""The scripts, as they are typed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from runs import SmallRun, quick_environment

ROOT = Path(__file__).parents[1]


def test_gpu_checks_without_an_accelerator_say_so(tmp_path: Path) -> None:
    done = subprocess.run(
        [ROOT / "scripts" / "gpu_checks.sh", "--out", tmp_path / "out"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 2
    assert "jax sees no accelerator here" in done.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_gpu_checks_run_dry_from_end_to_end(tmp_path: Path) -> None:
    for part in ("tests", "steps", "training"):
        done = subprocess.run(
            [ROOT / "scripts" / "gpu_checks.sh", "--dry", "--only", part, "--out", tmp_path],
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
            env=quick_environment(),
        )
        assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "results.json").read_text())
    assert list(results) == ["tests", "steps", "training"]
    assert all(part["dry"] and all(check["passed"] for check in part["checks"]) for part in results.values())
    training = results["training"]["checks"]
    assert training[-1]["figures"]["step"] > 0
    assert "resumed" in [check["title"] for check in training]
    assert "dry run" in (tmp_path / "results.md").read_text()


@pytest.mark.slow
def test_fine_tuning_is_measured_from_end_to_end(tmp_path: Path, small_run: SmallRun) -> None:
    lines = [f"the chef ate {count} red apples\t{'many' if count > 8 else 'few'}" for count in range(16)]
    for name in ("train.tsv", "dev.tsv"):
        (tmp_path / name).write_text("\n".join(["text\tlabel", *lines]) + "\n")
    task = {"name": "apples", "kind": "classification", "layout": "table", "metrics": ["accuracy"]}
    (tmp_path / "task.json").write_text(json.dumps(task))
    args = ["--like", small_run.run, "--data", tmp_path]
    args += ["--task", tmp_path / "task.json", "--seeds", "2", "--epochs", "0.5", "--length", "32", "--batch", "8"]
    args += ["--steps", "2", "--rounds", "1", "--json", tmp_path / "found.json"]
    table = run_script("benchmark_finetune.py", *args)
    found = json.loads((tmp_path / "found.json").read_text())
    apart, together = found["members"]["2 runs one after the other"], found["members"]["one program"]
    assert together["ratios"]["seconds"] == pytest.approx(apart["seconds"] / together["seconds"])
    assert {"ours, one member", "ours, 2 members"} <= found["peer"].keys()
    assert all(values["processor_seconds"] > 0 for values in found["peer"].values())
    assert "| one program |" in table


@pytest.mark.slow
def test_costs_are_measured_beside_the_step_as_it_is(tmp_path: Path) -> None:
    changes = ["as it is", "threefry bits", "three-dimensional", "no draw"]
    shape = ["--size", "tiny", "--batch", "2", "--length", "16", "--rounds", "2"]
    done = run_script("benchmark_costs.py", *shape, "--json", tmp_path / "costs.json", "--changes", *changes)
    assert list(json.loads((tmp_path / "costs.json").read_text())) == changes
    assert [line.split(" | ")[0] for line in done.splitlines()[2:]] == [f"| {change}" for change in changes]


@pytest.mark.slow
def test_growth_is_measured_and_drawn(tmp_path: Path) -> None:
    args = ["--size", "tiny", "--axes", "batch", "--most", "2", "--steps", "1", "--out", tmp_path / "growth.png"]
    table = run_script("benchmark_scaling.py", *args, "--json", tmp_path / "growth.json")
    small, large = json.loads((tmp_path / "growth.json").read_text())["batch"]
    assert small["state"] == large["state"]
    assert small["temporaries"] < large["temporaries"]
    assert f"| batch {large['batch']} |" in table.splitlines()[-1]
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")


def run_script(name: str, *args: str | Path) -> str:
    """What the script prints."""
    command = [sys.executable, ROOT / "scripts" / name, *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=quick_environment())
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
