"""Configurations small enough to compile in a second or two, and rows for them."""

import contextlib
import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from electra_jax.config import (
    DataConfig,
    GeneratorConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PretrainConfig,
    RuntimeConfig,
    SpecialTokens,
    TrainConfig,
)
from electra_jax.model.electra import create_model, create_params
from electra_jax.pretrain.objectives import OBJECTIVES
from electra_jax.pretrain.step import TrainStep, make_train_step
from electra_jax.training.optimizer import make_optimizer
from electra_jax.training.state import TrainState, create_state

SPECIAL = SpecialTokens(pad=0, cls=1, sep=2, mask=3)
FIRST_WORD = 4

PAPER = {"position": "absolute", "norm": "post", "convolution_width": 0, "embedding_sharing": "all"}
TINY = {
    "position": "rope",
    "norm": "pre",
    "convolution_width": 3,
    "embedding_sharing": "gdes",
    "initialization": "fan_in",
}


def make_config(**changes: dict[str, Any]) -> PretrainConfig:
    """A PretrainConfig of two layers of 32; each argument changes settings of the group it names."""
    config = PretrainConfig(
        name="test",
        model=ModelConfig(
            vocab_size=50,
            embedding_size=24,
            hidden_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=48,
            max_position_embeddings=64,
        ),
        generator=GeneratorConfig(width_fraction=0.5, num_attention_heads=2),
        objective=ObjectiveConfig(mask_prob=0.15),
        data=DataConfig(length=32),
        optimizer=OptimizerConfig(learning_rate=1e-3, warmup_steps=0),
        train=TrainConfig(steps=100, batch_size=8),
        runtime=RuntimeConfig(unroll_layers=False),
    )
    groups = {name: dataclasses.replace(getattr(config, name), **values) for name, values in changes.items()}
    return dataclasses.replace(config, **groups)


def make_rows(
    seed: int, rows: int = 8, length: int = 32, vocab_size: int = 50, examples: int = 3, full: bool = False
) -> np.ndarray:
    """Rows of up to `examples` packed examples, of one or two segments and differing lengths, then padding."""
    rng = np.random.default_rng(seed)
    ids = np.zeros((rows, length), np.int32)
    for row in ids:
        packed: list[int] = []
        for _ in range(int(rng.integers(1, examples + 1))):
            most = length if full else length // 2
            packed += make_example(rng, int(rng.integers(1, most)), vocab_size, segments=int(rng.integers(1, 3)))
        packed = packed[:length]
        row[: len(packed)] = packed
    return ids


def make_example(rng: np.random.Generator, words: int, vocab_size: int, segments: int = 1) -> list[int]:
    """`[CLS] A [SEP]`, or `[CLS] A [SEP] B [SEP]`."""
    tokens = [SPECIAL.cls]
    for _ in range(segments):
        tokens += [*rng.integers(FIRST_WORD, vocab_size, words).tolist(), SPECIAL.sep]
    return tokens


def make_params(config: PretrainConfig, seed: int = 0, scale: float = 0.1) -> Any:
    """Parameters drawn by NumPy: no bias is zero, no LayerNorm scale is one, nothing has to be compiled."""
    rng = np.random.default_rng(seed)
    plain = make_config()
    shapes = _shapes(dataclasses.replace(config, optimizer=plain.optimizer, train=plain.train, runtime=plain.runtime))

    def draw(path: tuple, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        values = scale * rng.standard_normal(leaf.shape) + (path[-1].key == "scale")
        return jnp.asarray(values, leaf.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


@functools.cache
def _shapes(config: PretrainConfig) -> Any:
    return jax.eval_shape(lambda: create_params(config, jax.random.key(0)))


def make_run(config: PretrainConfig, seed: int = 0, scale: float = 0.1) -> tuple[TrainState, TrainStep]:
    """A state at step 0 and its step function, not yet compiled."""
    tx = make_optimizer(config.optimizer, config.train.steps)
    state = create_state(make_params(config, seed, scale), tx, OBJECTIVES[config.objective.name].train_metrics)
    return state, make_train_step(config, create_model(config, "cpu"), tx, SPECIAL)


def make_keys(rows: int, seed: int = 0) -> jax.Array:
    """One key a row."""
    return jax.random.split(jax.random.key(seed), rows)


def quick_jit(function: Any, **options: Any) -> Any:
    """jit without LLVM's optimisation, which takes a fifth of the time to compile models of this size."""
    return jax.jit(function, compiler_options=quick_options(), **options)


@functools.cache
def quick_options() -> dict[str, Any]:
    """XLA's settings for a quick compilation, as far as this jaxlib has them."""
    known = {}
    for name, value in {"xla_backend_optimization_level": 0, "xla_cpu_use_fusion_emitters": False}.items():
        with contextlib.suppress(jax.errors.JaxRuntimeError):  # an option that this jaxlib does not have
            jax.jit(lambda x: x, compiler_options={name: value})(jnp.zeros(()))
            known[name] = value
    return known


def assert_trees_close(left: Any, right: Any, relative: float) -> None:
    """Every leaf equal to within `relative` of its own largest entry.

    One that vanishes in exact arithmetic, as the gradient of the key's bias, is rounding alone: of the trees' largest.
    """
    largest = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(right))
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(left), jax.tree.leaves(right), strict=True):
        apart = float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())
        own = float(jnp.abs(b).max())
        scale = own if own > 1e-6 * largest else largest
        assert apart <= relative * scale, f"{jax.tree_util.keystr(path)}: {apart} of {scale}"


def assert_trees_equal(left: Any, right: Any) -> None:
    """Every leaf equal to the bit."""
    for (path, a), b in zip(jax.tree_util.tree_leaves_with_path(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b), err_msg=jax.tree_util.keystr(path))
