"""Runs that are killed or stopped: started again, they end as if nothing had happened. Real processes and signals."""

import random
import signal
import time
from pathlib import Path

import pytest
from long_runs import LONG, assert_same_end, wait_for_step
from runs import electra_jax, pretrain_args, start

from electra_jax.training.checkpoint import Checkpoints
from electra_jax.training.metrics import read_metrics


@pytest.mark.slow
def test_twenty_kills_change_nothing(data: Path, cache: dict[str, str], undisturbed: Path, tmp_path: Path) -> None:
    run, draw, kills, starts = tmp_path / "run", random.Random(0), 0, 0
    args = pretrain_args(data, run, *LONG)
    while starts < 80:
        starts += 1
        process = start(*args, **cache)
        # Some kills fall into the start, most into training and saving.
        if draw.random() < 0.7:
            newest = max((line["step"] for line in read_metrics(run)), default=0)
            wait_for_step(run, min(newest + draw.randint(1, 25), 400), process)
            time.sleep(draw.uniform(0, 0.05))
        else:
            time.sleep(draw.uniform(0, 4))
        if kills >= 20:
            break
        if process.poll() is not None:
            break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        kills += 1
    process.communicate()
    electra_jax(*args, check=True, **cache)
    assert kills >= 20
    assert_same_end(run, undisturbed)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_signal_saves_and_exits_cleanly(
    signum: signal.Signals, data: Path, cache: dict[str, str], undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    process = start(*pretrain_args(data, run, *LONG), **cache)
    wait_for_step(run, 55, process)
    process.send_signal(signum)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + signum, errors.decode()
    assert len(errors.decode().strip().splitlines()) == 1
    saved = int(errors.decode().split("step ")[1].split(" ")[0])
    assert saved in Checkpoints(run / "checkpoints").steps()
    electra_jax(*pretrain_args(data, run, *LONG), check=True, **cache)
    assert_same_end(run, undisturbed)


# What the tests above leave out: Muon's state for two networks, dropout, Gumbel noise, parts of a batch.
EVERYTHING = ("--optimizer.name", "muon", "--model.hidden-dropout-prob", "0.1", "--objective.sampler", "gumbel",
              "--model.attention-probs-dropout-prob", "0.1", "--runtime.micro-batches", "2",
              "--runtime.save-every", "20", "--train.steps", "60")  # fmt: skip
# The paper's form: one optimizer over tied embeddings, without bias correction.
PAPER = ("--model.position", "absolute", "--model.norm", "post", "--model.convolution-width", "0",
         "--model.embedding-sharing", "all", "--optimizer.no-per-network", "--optimizer.no-bias-correction",
         "--runtime.save-every", "20", "--train.steps", "60")  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("settings", [EVERYTHING, PAPER], ids=["muon", "paper"])
def test_a_kill_changes_nothing_under_other_settings(
    settings: tuple[str, ...], data: Path, cache: dict[str, str], tmp_path: Path
) -> None:
    cache = {name: value for name, value in cache.items() if name != "XLA_FLAGS"}  # compiled quickly, but once each
    whole, run = tmp_path / "whole", tmp_path / "run"
    electra_jax(*pretrain_args(data, whole, *settings), check=True, **cache)
    process = start(*pretrain_args(data, run, *settings), **cache)
    wait_for_step(run, 30, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert read_metrics(run)[-1]["step"] < 60
    electra_jax(*pretrain_args(data, run, *settings), check=True, **cache)
    assert_same_end(run, whole)
