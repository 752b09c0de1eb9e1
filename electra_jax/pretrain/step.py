"""The compiled step: both networks, the draw between them and the update, in one program."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Integer, Key

from electra_jax.config import PretrainConfig, SpecialTokens
from electra_jax.model.electra import Electra
from electra_jax.model.inputs import Inputs, create_inputs
from electra_jax.pretrain.corruption import create_row_keys
from electra_jax.pretrain.groups import split_rows
from electra_jax.pretrain.objectives import OBJECTIVES, Outputs, Params, total_loss
from electra_jax.training.sharding import gather_tables
from electra_jax.training.state import TrainState, apply_gradients

TrainStep = Callable[[TrainState, Integer[Array, "b l"]], tuple[TrainState, dict[str, Any]]]


def make_train_step(
    config: PretrainConfig, model: Electra, tx: optax.GradientTransformation, special: SpecialTokens
) -> TrainStep:
    """A pure function (state, ids [batch, length]) → (state, what the host may read), ready for jit."""
    base_key = jax.random.key(config.train.seed)

    def train_step(state: TrainState, ids: Integer[Array, "b l"]) -> tuple[TrainState, dict[str, Any]]:
        inputs = create_inputs(ids, special)
        keys = jax.random.split(jax.random.fold_in(base_key, state.step), ids.shape[0])
        grads, stats = accumulate_gradients(gather_tables(state.params), inputs, keys, config, model, special)
        state = apply_gradients(state, gather_tables(grads), tx, stats, config.runtime.log_every)
        out = {"window": state.window, "bad_steps": state.bad_steps, "skipped": state.skipped}
        return state, out | {"tokens": inputs.attention_mask.sum()}

    return train_step


def accumulate_gradients(
    params: Params,
    inputs: Inputs,
    keys: Key[Array, " b"],
    config: PretrainConfig,
    model: Electra,
    special: SpecialTokens,
) -> tuple[Params, dict[str, Float[Array, "2"]]]:
    """Gradients and (sum, weight) metrics of a batch, whatever number of micro-batches it is computed in.

    The denominators are the whole batch's and a row's draws its own, so the sum of the parts is the whole.
    """
    objective = OBJECTIVES[config.objective.name]
    weights = objective.count_weights(inputs, config.objective, special)

    def loss_fn(params: Params, inputs: Inputs, keys: Key[Array, " b"]) -> tuple[Array, Outputs]:
        outputs = objective.compute(model, params, inputs, create_row_keys(keys), config.objective, special, True)
        return total_loss(outputs, weights, config.objective), outputs

    def one(inputs: Inputs, keys: Key[Array, " b"]) -> tuple[Params, dict[str, Float[Array, "2"]]]:
        (loss, outputs), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, inputs, keys)
        return grads, _stats(loss, outputs)

    parts = config.runtime.micro_batches
    if parts == 1:
        grads, stats = one(inputs, keys)
    else:
        split = split_rows((inputs, keys), parts)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), jax.eval_shape(one, *_first(split)))
        add = lambda total, part: (jax.tree.map(jnp.add, total, one(*part)), None)  # noqa: E731
        (grads, stats), _ = jax.lax.scan(add, zeros, split)
    stats["loss"] = jnp.stack([stats["loss"][0], jnp.ones(())])
    stats["grad_norm"] = jnp.stack([optax.tree.norm(grads), jnp.ones(())])
    return grads, stats


def _first(split: Any) -> Any:
    return jax.tree.map(lambda x: x[0], split)


def _stats(loss: Float[Array, ""], outputs: Outputs) -> dict[str, Float[Array, "2"]]:
    means = {"mlm_loss": outputs.mlm_loss, "mlm_accuracy": outputs.mlm_accuracy, "rtd_loss": outputs.rtd_loss}
    stats = {name: jnp.stack(mean) for name, mean in means.items() if mean is not None}
    return stats | {"loss": jnp.stack([loss, jnp.ones(())])}
