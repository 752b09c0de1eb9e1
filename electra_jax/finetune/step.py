"""One update of all members at once, and what they answer: the same functions for one member, vmapped."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key, UInt32

from electra_jax.config import SpecialTokens
from electra_jax.finetune.losses import Batch, task_loss
from electra_jax.model.dropout import create_seeds
from electra_jax.model.electra import Electra
from electra_jax.model.inputs import create_inputs
from electra_jax.model.spans import best_spans
from electra_jax.tasks.task import Task
from electra_jax.training.state import TrainState, apply_gradients, create_state

TrainStep = Callable[[Array, Array, TrainState, Batch], tuple[TrainState, dict[str, Any]]]
# Question answering (published code): starts and answers looked at, and the longest answer in tokens.
BEAM, N_BEST, LONGEST_ANSWER = 20, 20, 30


def create_member_state(params: Any, direction: optax.GradientTransformation) -> TrainState:
    """Step 0 of one member; vmapped, of all of them."""
    return create_state(params, _update(direction, jnp.float32(1)), metrics=())


def make_train_step(
    model: Electra,
    task: Task,
    special: SpecialTokens,
    direction: optax.GradientTransformation,
) -> TrainStep:
    """A step over seeds, rates, a stacked state and batches [members, batch, …]; a member draws from its own seed."""

    def step(
        seed: UInt32[Array, ""], learning_rate: Float[Array, ""], state: TrainState, batch: Batch
    ) -> tuple[TrainState, dict[str, Any]]:
        rows = len(batch["ids"])
        key: Key[Array, ""] = jax.random.fold_in(jax.random.key(seed), state.step)
        dropout_seeds = create_seeds(jax.random.split(key, rows))

        def loss_fn(params: Any) -> tuple[Float[Array, ""], Float[Array, "2"]]:
            total, weight = task_loss(model, task, special, params, batch, dropout_seeds)
            return total / jnp.maximum(weight, 1.0), jnp.stack([total, weight])

        grads, stats = jax.grad(loss_fn, has_aux=True)(state.params)
        state = apply_gradients(state, grads, _update(direction, learning_rate), {"loss": stats}, log_every=1)
        tokens = (batch["ids"] != special.pad).sum()
        return state, {"tokens": tokens, "bad_steps": state.bad_steps, "loss": stats}

    def step_all(
        seeds: UInt32[Array, " m"], learning_rates: Float[Array, " m"], state: TrainState, batch: Batch
    ) -> tuple[TrainState, dict[str, Any]]:
        state, out = jax.vmap(step)(seeds, learning_rates, state, batch)
        return state, out | {"tokens": out["tokens"].sum(), "bad_steps": out["bad_steps"].min()}

    return step_all


def _update(direction: optax.GradientTransformation, learning_rate: Float[Array, ""]) -> optax.GradientTransformation:
    return optax.chain(direction, optax.scale(learning_rate))


def answer(model: Electra, task: Task, special: SpecialTokens, params: Any, ids: Int[Array, "b l"]) -> dict[str, Array]:
    """What one member says of rows.

    Classification: `scores` [batch, labels], their probabilities; regression: `scores` [batch], on the task's own
    scale; tagging: `tag` and its `probability` [batch, length], the likeliest of each token. Question answering:
    `start`, `end`, `score` [batch, answers] and `null` [batch]; `no_answer` too where the head has a part of its own
    for it.
    """
    apply = partial(model.apply, {"params": params}, create_inputs(ids, special))
    if task.kind == "question_answering":
        logits: Any = apply(None, BEAM, method=Electra.span_logits)
        spans = best_spans(logits, LONGEST_ANSWER, N_BEST)._asdict()
        return spans if logits.no_answer is None else {**spans, "no_answer": spans["null"]}
    scores: Any = apply(method=Electra.task_logits)
    if task.kind == "regression":
        low, high = task.scale
        return {"scores": low + (high - low) * scores[:, 0]}
    probabilities = jax.nn.softmax(scores)
    if task.kind == "tagging":
        return {"tag": probabilities.argmax(-1), "probability": probabilities.max(-1)}
    return {"scores": probabilities}


@partial(jax.jit, static_argnums=(0, 1, 2))
def answer_members(
    model: Electra, task: Task, special: SpecialTokens, params: Any, ids: Int[Array, "b l"]
) -> dict[str, Array]:
    """`answer` of every member of stacked parameters about the same rows."""
    return jax.vmap(partial(answer, model, task, special), in_axes=(0, None))(params, ids)
