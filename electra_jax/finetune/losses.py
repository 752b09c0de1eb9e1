"""What a head learns from one batch: each loss as (sum, weight)."""

from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, UInt32

from electra_jax.config import SpecialTokens
from electra_jax.model.electra import Electra
from electra_jax.model.inputs import create_inputs
from electra_jax.tasks.task import Task

Batch = dict[str, Array]
ANSWERABILITY_WEIGHT = 0.5


def task_loss(
    model: Electra, task: Task, special: SpecialTokens, params: Any, batch: Batch, seeds: UInt32[Array, "b 2"] | None
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The task's loss over a batch of `batching.collate` as (sum, weight); rows of weight 0 add nothing.

    Classification and tagging: cross-entropy, a tag's over each word's first piece. Regression: squared error of the
    score scaled to 0…1. Question answering: the mean of start's and end's cross-entropy, plus half of
    answerability's (published code).
    """
    inputs, weight = create_inputs(batch["ids"], special), batch["weight"]

    def apply(method: Any, *more: Any) -> Any:
        return model.apply({"params": params}, inputs, *more, dropout_seeds=seeds, method=method)

    if task.kind == "question_answering":
        found = apply(Electra.span_logits, batch["start"][:, None], 1)
        losses = 0.5 * (_cross_entropy(found.start, batch["start"]) + _cross_entropy(found.end[:, 0], batch["end"]))
        if found.no_answer is not None:
            unanswerable = optax.sigmoid_binary_cross_entropy(found.no_answer, batch["no_answer"])
            losses += ANSWERABILITY_WEIGHT * unanswerable
        return (losses * weight).sum(), weight.sum()
    logits = apply(Electra.task_logits)
    if task.kind == "tagging":
        weight = (batch["tags"] >= 0) * weight[:, None]
        return (_cross_entropy(logits, jnp.maximum(batch["tags"], 0)) * weight).sum(), weight.sum()
    if task.kind == "regression":
        return (jnp.square(logits[:, 0] - batch["score"]) * weight).sum(), weight.sum()
    return (_cross_entropy(logits, batch["label"]) * weight).sum(), weight.sum()


def _cross_entropy(logits: Float[Array, "*s n"], labels: Array) -> Float[Array, "*s"]:
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), labels[..., None], axis=-1)[..., 0]
