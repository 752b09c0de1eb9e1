"""What only an accelerator can show. Run by scripts/gpu_checks.sh, and in its dry form on the CPU."""

import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from electra_jax.config import PretrainConfig, SpecialTokens
from electra_jax.model.attention import Kernels, mix
from electra_jax.presets import load_preset
from electra_jax.pretrain.run import create_model_on, plan_state
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
        step = jax.jit(make_train_step(config, create_model_on(config, mesh), tx, SPECIAL), donate_argnums=0)
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


on_a_gpu = pytest.mark.skipif(jax.default_backend() != "gpu", reason="cudnn computes on a GPU alone")


@on_a_gpu
@pytest.mark.parametrize("length", [64, 128, 512])
@pytest.mark.parametrize("head_size", [16, 64])
@pytest.mark.parametrize("kind", ["packed", "padded"])
def test_cudnn_agrees_with_xla_forward_and_backward(kind: str, head_size: int, length: int) -> None:
    """In bfloat16, within 2⁻⁶ of the largest entry of what xla computes in float32."""
    rng = np.random.default_rng(0)
    arrays = [jnp.asarray(rng.normal(size=(4, length, 2, head_size)), jnp.bfloat16) for _ in range(4)]
    cuts = rng.integers(1, length, (4, 3 if kind == "packed" else 1))
    number = (np.arange(length)[None, :, None] >= np.sort(cuts)[:, None]).sum(-1)
    segment_ids = jnp.asarray(np.where(number < cuts.shape[1], number + 1, 0), jnp.int32)
    real = (segment_ids > 0)[:, :, None, None]

    def compute(name: str, dtype: str) -> list[np.ndarray]:
        *inputs, weights = (x.astype(dtype) for x in arrays)

        def loss(*inputs: jax.Array) -> tuple[jax.Array, jax.Array]:
            mixed = mix(name, Kernels(dtype, platform="gpu"), *inputs, segment_ids) * real
            return (mixed * weights).astype(jnp.float32).sum(), mixed

        with jax.default_matmul_precision("float32"):
            grads, mixed = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*inputs)
        return [np.asarray(x, np.float64) for x in (mixed, *grads)]

    for ours, exact in zip(compute("cudnn", "bfloat16"), compute("xla", "float32"), strict=True):
        assert np.abs(ours - exact).max() <= 2**-6 * np.abs(exact).max()


@on_a_gpu
def test_cudnn_trains_as_the_einsum_does() -> None:
    def found(attention: str) -> np.ndarray:
        config = small(dtype="bfloat16", attention=attention)
        model = dataclasses.replace(config.model, attention_probs_dropout_prob=0.0)
        return losses(dataclasses.replace(config, model=model), jax.devices()[0], 5)

    np.testing.assert_allclose(found("cudnn"), found("einsum"), rtol=0.02)
