"""What only an accelerator can show. Run by scripts/gpu_checks.sh, and in its dry form on the CPU."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from electra_jax.config import PretrainConfig, SpecialTokens, load_preset
from electra_jax.model.electra import create_model
from electra_jax.pretrain.run import plan_state
from electra_jax.pretrain.step import make_train_step
from electra_jax.training import sharding
from electra_jax.training.optimizer import make_optimizer

pytestmark = pytest.mark.gpu
SPECIAL = SpecialTokens(0, 1, 2, 3)


def losses(config: PretrainConfig, device: jax.Device, steps: int) -> np.ndarray:
    """The loss after each of a few real steps on one device."""
    mesh = sharding.create_mesh(config.runtime.mesh, config.train.batch_size, [device])
    ids = np.random.RandomState(0).randint(4, config.model.vocab_size, (config.train.batch_size, config.data.length))
    ids[:, 0], ids[:, -1] = SPECIAL.cls, SPECIAL.sep
    found = []
    with jax.set_mesh(mesh), jax.default_matmul_precision("float32"):
        state = jax.jit(plan_state(config, mesh)[0])()
        tx = make_optimizer(config.optimizer, config.train.steps)
        step = jax.jit(make_train_step(config, create_model(config), tx, SPECIAL), donate_argnums=0)
        for _ in range(steps):
            state, out = step(state, sharding.place_batch(ids.astype(np.uint16), mesh))
            total, weight = jax.device_get(out["window"]["loss"])
            found.append(total / weight)
    return np.array(found)


def small(**runtime: object) -> PretrainConfig:
    """The tiny preset at a quarter of its batch, and without a log window, so that each step's loss is its own."""
    config = load_preset(Path(__file__).parents[1] / "configs" / "tiny.py")
    train = dataclasses.replace(config.train, batch_size=16)
    return dataclasses.replace(config, train=train, runtime=dataclasses.replace(config.runtime, log_every=1, **runtime))


def test_the_device_trains_as_the_cpu_does() -> None:
    here = losses(small(), jax.devices()[0], 5)
    there = losses(small(), jax.devices("cpu")[0], 5)
    # One step later a rounding error may flip a draw; the first loss has seen none.
    np.testing.assert_allclose(here[0], there[0], rtol=1e-4)
    np.testing.assert_allclose(here, there, rtol=0.05)


def test_bfloat16_stays_near_float32() -> None:
    exact, rounded = losses(small(), jax.devices()[0], 20), losses(small(dtype="bfloat16"), jax.devices()[0], 20)
    assert np.isfinite(rounded).all()
    assert abs(rounded[-5:].mean() / exact[-5:].mean() - 1) < 0.05
