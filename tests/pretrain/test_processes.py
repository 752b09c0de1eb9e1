"""The same run on other devices and in several processes, which end together. Real processes and signals."""

import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from long_runs import TIMED, final_state, wait_for_step
from runs import electra_jax, joined_by_hand, pretrain_args, start, start_together
from tiny_models import assert_trees_close

from electra_jax.training.checkpoint import saved_steps
from electra_jax.training.metrics import read_metrics

# Large enough that fsdp cuts the layers; dropout and Gumbel noise are drawn alike everywhere.
SIZES = ("--model.hidden-size", "128", "--model.intermediate-size", "256", "--model.hidden-dropout-prob", "0.1",
         "--model.attention-probs-dropout-prob", "0.1", "--objective.sampler", "gumbel",
         "--optimizer.learning-rate", "5e-4",
         "--runtime.log-every", "1", "--runtime.no-tensorboard")  # fmt: skip
SHORT = (*SIZES, "--train.steps", "20", "--runtime.eval-every", "20", "--runtime.save-every", "20")
# Devices in all, processes, what runtime says.
LAYOUTS = {
    "2 devices": (2, 1, ()),
    "4 devices, 2 micro-batches": (4, 1, ("--runtime.micro-batches", "2")),
    "8x1": (8, 1, ()),
    "1x8": (8, 1, ("--runtime.mesh.data", "1", "--runtime.mesh.fsdp", "8")),
    "2x2x2": (8, 1, ("--runtime.mesh.data", "2", "--runtime.mesh.fsdp", "2", "--runtime.mesh.tensor", "2")),
    "2 processes": (2, 2, ("--runtime.micro-batches", "2")),
    "2x2x2 in 2 processes": (8, 2, ("--runtime.mesh.fsdp", "2", "--runtime.mesh.tensor", "2")),
    "tensor over 2 processes": (2, 2, ("--runtime.mesh.data", "1", "--runtime.mesh.tensor", "2")),
}


@pytest.fixture(scope="module")
def alone(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("alone") / "run"
    electra_jax(*pretrain_args(data, run, *SHORT), check=True)
    return run


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_trains_the_same(layout: str, data: Path, alone: Path, tmp_path: Path) -> None:
    devices, count, runtime = LAYOUTS[layout]
    run = tmp_path / "run"
    processes = start_together(count, devices // count, *pretrain_args(data, run, *SHORT, *runtime))
    for process in processes:
        _, errors = process.communicate(timeout=200)
        assert process.returncode == 0, errors.decode()
    assert_same_curve(run, alone)
    assert_same_params(run, alone, 1e-5)


@pytest.mark.slow
def test_processes_end_together_and_go_on_anywhere(data: Path, tmp_path: Path) -> None:
    whole, run = tmp_path / "whole", tmp_path / "run"
    settings = (*SIZES, "--train.steps", "100", "--runtime.eval-every", "50", "--runtime.save-every", "10")
    args, twice = pretrain_args(data, run, *settings), ("--runtime.micro-batches", "2")
    electra_jax(*pretrain_args(data, whole, *settings), check=True)

    for step, killed in ((25, 1), (50, 0)):
        processes = start_together(2, 2, *args, *twice)
        wait_for_step(run, step, processes[0])
        processes[killed].kill()
        errors = ended(processes[1 - killed], 1)
        assert f"process {killed} of this run has ended (killed, or its machine is lost)" in errors.splitlines()[-1]
        processes[killed].communicate()

    processes = start_together(2, 1, *args)
    wait_for_step(run, 75, processes[0])
    processes[1].terminate()
    sentences = {ended(process, 128 + signal.SIGTERM).splitlines()[-1] for process in processes}
    (saved,) = {int(sentence.split("step ")[1].split(" ")[0]) for sentence in sentences}
    assert "stopped by SIGTERM" in sentences.pop()
    assert saved == saved_steps(run / "checkpoints")[-1]

    electra_jax(*args, check=True)
    assert_same_curve(run, whole)
    assert_same_params(run, whole, 5e-5)  # what rounding grows to in 100 steps


@pytest.mark.slow
def test_what_is_wrong_in_one_process_ends_all(data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    here, there = joined_by_hand(2, 1)
    first = start(*pretrain_args(data, run, *SHORT), **here)
    second = start(*pretrain_args(tmp_path / "nowhere", run, *SHORT), **there)
    _, errors = second.communicate(timeout=200)
    assert second.returncode == 2, errors.decode()
    assert "nowhere" in errors.decode().splitlines()[-1]
    said = ended(first, 1).splitlines()[-1]
    assert "process 1 of this run has ended" in said
    assert "nowhere" in said
    assert not run.exists()


def ended(process: subprocess.Popen[bytes], code: int) -> str:
    """What a process said that ends within ten seconds."""
    began = time.monotonic()
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors.decode()
    assert time.monotonic() - began < 10
    return errors.decode().strip()


def assert_same_curve(run: Path, reference: Path) -> None:
    lines = [[{k: v for k, v in line.items() if k not in TIMED} for line in read_metrics(r)] for r in (run, reference)]
    assert [line.keys() for line in lines[0]] == [line.keys() for line in lines[1]]
    for ours, theirs in zip(*lines, strict=True):
        mine, others = (np.array(list(line.values()), np.float64) for line in (ours, theirs))
        np.testing.assert_allclose(mine, others, rtol=1e-5, err_msg=str(ours))


def assert_same_params(run: Path, reference: Path, relative: float) -> None:
    """Within that share of each leaf's largest entry."""
    ours, theirs = (without_key_biases(final_state(path).params) for path in (run, reference))
    assert_trees_close(ours, theirs, relative)


def without_key_biases(params: dict[str, Any]) -> dict[str, Any]:
    """Without the biases of the keys, which change no softmax: their gradient is rounding and nothing else."""
    flat = {jax.tree_util.keystr(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(params)}
    return {path: leaf for path, leaf in flat.items() if not path.endswith("['key']['bias']")}
