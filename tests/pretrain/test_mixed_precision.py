"""A real run in bfloat16 beside the same one in float32."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest
from runs import SmallRun
from tiny_models import quick_jit

from electra_jax.config import PretrainConfig, read_config
from electra_jax.model.electra import create_model
from electra_jax.pretrain.evaluation import evaluate, make_eval_step
from electra_jax.pretrain.run import plan_state
from electra_jax.pretrain.step import make_train_step
from electra_jax.text.loader import batches, fixed_batches
from electra_jax.text.rows import DataSet, open_data_set
from electra_jax.training.optimizer import make_optimizer
from electra_jax.training.sharding import create_mesh

SEEDS, STEPS = range(3), 200


@pytest.mark.slow
def test_bfloat16_ends_where_float32_ends(small_run: SmallRun) -> None:
    """Held-out losses differ by less than those of two seeds do, and not to one side."""
    data = open_data_set(small_run.data)
    exact, rounded = (train_all(small_run.run, data, dtype) for dtype in ("float32", "bfloat16"))
    for name in ("mlm_loss", "rtd_loss"):
        ours, theirs = (np.array([metrics[name] for metrics in found]) for found in (rounded, exact))
        spread = np.ptp(theirs)
        print(name, "float32", theirs, "bfloat16 −", ours - theirs, "spread", spread)
        assert (ours != theirs).all()
        assert np.abs(ours - theirs).max() < spread
        assert np.abs((ours - theirs).mean()) < spread / 2
    shares = data.unigram[data.unigram > 0] / data.unigram.sum()
    entropy = -(shares * np.log(shares)).sum()
    assert max(metrics["mlm_loss"] for metrics in rounded) < entropy  # more is learned than how frequent words are


def train_all(run: Path, data: DataSet, dtype: str) -> list[dict[str, float]]:
    """The held-out metrics of a run of each seed: of its parameters and its order of rows."""
    config = with_changes(read_config(run / "config.json"), dtype)
    mesh = create_mesh(config.runtime.mesh, config.train.batch_size, jax.devices()[:1])
    model, tx = create_model(config), make_optimizer(config.optimizer, config.train.steps)
    step = quick_jit(make_train_step(config, model, tx, data.special), donate_argnums=0)
    eval_step = quick_jit(make_eval_step(config.objective, model, data.special))
    ended = []
    for seed in SEEDS:
        state = plan_state(with_changes(config, dtype, seed), mesh)[0]()
        for ids in batches(data.train, config.train.batch_size, seed, 0, STEPS):
            state, out = step(state, ids)
        assert int(out["skipped"]) == 0
        assert {leaf.dtype for leaf in jax.tree.leaves(state.params)} == {np.dtype(np.float32)}
        held_out = ((ids, np.arange(i * 64, (i + 1) * 64, dtype=np.int32)) for i, ids in
                    enumerate(fixed_batches(data.valid, 64)))  # fmt: skip
        ended.append(evaluate(eval_step, state.params, held_out, data.unigram))
    return ended


def with_changes(config: PretrainConfig, dtype: str, seed: int = 0) -> PretrainConfig:
    replace = dataclasses.replace
    train = replace(config.train, steps=STEPS, seed=seed)
    return replace(config, train=train, runtime=replace(config.runtime, dtype=dtype))
