"""A run long enough to be disturbed, and what must be equal at its end."""

import subprocess
import time
from pathlib import Path

import jax
import numpy as np
import pytest

from electra_jax.config import MeshConfig, read_config
from electra_jax.pretrain.run import plan_state
from electra_jax.training.checkpoint import Checkpoints
from electra_jax.training.metrics import read_metrics
from electra_jax.training.sharding import create_mesh
from electra_jax.training.state import TrainState

TIMED = {"seconds", "tokens_per_second", "waiting", "mfu"}
# Saved often, so that a kill seldom costs more than a moment.
OFTEN = ("--runtime.save-every", "20", "--runtime.eval-every", "40", "--runtime.log-every", "5")
LONG = (*OFTEN, "--train.steps", "400")


def wait_for_step(run: Path, step: int, process: subprocess.Popen[bytes]) -> None:
    """Returns when the run has logged the step."""
    while process.poll() is None and not any(line["step"] >= step for line in read_metrics(run)):
        time.sleep(0.02)


def final_state(run: Path) -> TrainState:
    config = read_config(run / "config.json")
    mesh = create_mesh(MeshConfig(), config.train.batch_size, jax.devices()[:1])
    checkpoints = Checkpoints(run / "checkpoints")
    restored = checkpoints.restore_newest(plan_state(config, mesh)[1], pytest.fail)
    assert restored is not None
    assert restored.step == config.train.steps
    return restored.state


def assert_same_end(run: Path, reference: Path) -> None:
    """Parameters, moments, counters and metrics are equal to the bit."""
    ours, theirs = final_state(run), final_state(reference)
    for (path, mine), (_, other) in zip(
        jax.tree_util.tree_leaves_with_path(ours), jax.tree_util.tree_leaves_with_path(theirs), strict=True
    ):
        np.testing.assert_array_equal(mine, other, err_msg=jax.tree_util.keystr(path))
    lines = [[{k: v for k, v in line.items() if k not in TIMED} for line in read_metrics(r)] for r in (run, reference)]
    assert lines[0] == lines[1]
