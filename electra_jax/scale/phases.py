"""A step cut into its phases, each compiled alone, to see where its time goes."""

import dataclasses
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, Bool, Float, Integer, Key

from electra_jax.config import PretrainConfig, SpecialTokens, generator_model, num_slots
from electra_jax.model.dropout import create_seeds
from electra_jax.model.electra import Electra
from electra_jax.model.inputs import Inputs, create_inputs
from electra_jax.pretrain.corruption import RowKeys, choose_and_mask, create_row_keys, replace, sample
from electra_jax.pretrain.objectives import OBJECTIVES, Params, mlm, rtd_loss, rtd_mask
from electra_jax.pretrain.run import create_model_on
from electra_jax.training import sharding
from electra_jax.training.optimizer import make_optimizer
from electra_jax.training.state import TrainState, apply_gradients, create_state

Phases = dict[str, Callable[..., Any]]


def make_phases(
    config: PretrainConfig, model: Electra, tx: optax.GradientTransformation, special: SpecialTokens
) -> Phases:
    """Pure functions of what a phase of `make_train_step`'s step reads.

    generator: masking, forward and backward of the MLM loss; sampling: one draw a slot, written into the rows;
    discriminator: forward and backward of the RTD loss; update: clip, optimizer, new parameters.
    """
    objective = config.objective
    alone = dataclasses.replace(objective, name="mlm")  # the same without its draws

    def generator(params: Params, inputs: Inputs, keys: RowKeys) -> Params:
        def loss(params: Params) -> Float[Array, ""]:
            mean = mlm(model, params, inputs, keys, alone, special, True).mlm_loss
            return objective.gen_weight * mean.sum / mean.weight

        return jax.grad(loss)(params)

    def sampling(logits: Float[Array, "b s v"], inputs: Inputs, keys: RowKeys) -> tuple[Inputs, Bool[Array, "b l"]]:
        masking = choose_and_mask(inputs, keys, objective, special)
        return replace(inputs, masking, sample(logits, keys.sample, objective))

    def discriminator(params: Params, corrupted: Inputs, is_replaced: Bool[Array, "b l"], keys: RowKeys) -> Params:
        def loss(params: Params) -> Float[Array, ""]:
            seeds = create_seeds(keys.discriminator_dropout)
            logits: Any = model.apply({"params": params}, corrupted, seeds, method=Electra.rtd_logits)
            mean = rtd_loss(logits, is_replaced, rtd_mask(corrupted, objective, special))
            return objective.disc_weight * mean.sum / mean.weight

        return jax.grad(loss)(params)

    def update(state: TrainState, grads: Params) -> TrainState:
        stats = {name: jnp.ones(2) for name in state.window}
        return apply_gradients(state, grads, tx, stats, config.runtime.log_every)

    return {"generator": generator, "sampling": sampling, "discriminator": discriminator, "update": update}


def time_phases(
    config: PretrainConfig,
    params: Params,
    ids: Integer[np.ndarray, "b l"],
    special: SpecialTokens,
    mesh: Mesh,
    rounds: int,
) -> dict[str, float]:
    """Seconds of each phase, the median over rounds that take each in turn; `data` is the way of the ids to the device.

    Together they take longer than the step, in which some of them overlap or merge.
    """
    tx = make_optimizer(config.optimizer, config.train.steps)
    phases = make_phases(config, create_model_on(config, mesh), tx, special)
    compiled = {name: jax.jit(phase, donate_argnums=0 if name == "update" else ()) for name, phase in phases.items()}
    inputs, keys = create_inputs(jnp.asarray(ids), special), create_row_keys(_keys(len(ids)))
    shape = (len(ids), num_slots(config.objective, ids.shape[1]), generator_model(config).vocab_size)
    logits = jax.random.normal(jax.random.key(1), shape)
    corrupted, is_replaced = compiled["sampling"](logits, inputs, keys)
    copy = jax.tree.map(jnp.copy, params)
    state = create_state(copy, tx, OBJECTIVES[config.objective.name].train_metrics)
    grads = jax.tree.map(lambda leaf: jnp.full_like(leaf, 1e-3), params)

    def updated() -> TrainState:
        nonlocal state
        state = compiled["update"](state, grads)
        return state

    turns: Phases = {
        "data": lambda: sharding.place_batch(ids, mesh),
        "generator": lambda: compiled["generator"](params, inputs, keys),
        "sampling": lambda: compiled["sampling"](logits, inputs, keys),
        "discriminator": lambda: compiled["discriminator"](params, corrupted, is_replaced, keys),
        "update": updated,
    }
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    for number in range(rounds + 1):  # the first compiles
        for name, turn in turns.items():
            began = time.perf_counter()
            jax.block_until_ready(turn())
            if number:
                seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(found) for name, found in seconds.items()}


def _keys(rows: int) -> Key[Array, " b"]:
    return jax.random.split(jax.random.key(0), rows)
