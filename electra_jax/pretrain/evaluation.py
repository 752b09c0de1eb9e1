"""Evaluation on held-out rows at fixed masks: the same rows, positions and draws at every step and in every run."""

from collections.abc import Callable, Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Integer

from electra_jax.config import ObjectiveConfig, SpecialTokens
from electra_jax.model.electra import Electra
from electra_jax.model.inputs import create_inputs
from electra_jax.pretrain import health
from electra_jax.pretrain.corruption import create_row_keys, replace, sample_unigram
from electra_jax.pretrain.objectives import OBJECTIVES, Params, rtd_mask
from electra_jax.training.sharding import gather_tables

# Independent of the run's seed, so that numbers of different runs compare.
EVAL_SEED = 20030

EvalStep = Callable[[Params, Integer[Array, "b l"], Int[Array, " b"], Float[Array, " v"]], dict[str, Any]]


def make_eval_step(objective: ObjectiveConfig, model: Electra, special: SpecialTokens) -> EvalStep:
    """A pure function (params, ids, row numbers, running sum of the unigram distribution) → sums."""
    compute = OBJECTIVES[objective.name].compute

    def eval_step(
        params: Params, ids: Integer[Array, "b l"], rows: Int[Array, " b"], unigram: Float[Array, " v"]
    ) -> dict[str, Any]:
        params, inputs = gather_tables(params), create_inputs(ids, special)
        row_key = jax.vmap(lambda row: jax.random.fold_in(jax.random.key(EVAL_SEED), row))
        keys = create_row_keys(row_key(rows))
        out = compute(model, params, inputs, keys, objective, special, False)
        sums: dict[str, Any] = {
            "mlm_loss": out.mlm_loss,
            "mlm_accuracy": out.mlm_accuracy,
            "generator_entropy": out.generator_entropy,
        }
        if out.rtd_logits is None or out.is_replaced is None:
            return sums
        drawn = sample_unigram(unigram, keys.sample, out.masking.slots.shape[1])
        corrupted, is_replaced = replace(inputs, out.masking, drawn)
        logits = model.apply({"params": params}, corrupted, method=Electra.rtd_logits)
        detected = rtd_mask(inputs, objective, special)
        return sums | {
            "rtd_loss": out.rtd_loss,
            "rtd": health.histogram(out.rtd_logits, out.is_replaced, detected),
            "rtd_unigram": health.histogram(logits, is_replaced, detected),  # type: ignore[arg-type]
        }

    return eval_step


def evaluate(
    eval_step: EvalStep,
    params: Params,
    batches: Iterable[Any],
    unigram_counts: np.ndarray,
) -> dict[str, float]:
    """Runs the step over (ids, row numbers) batches and divides once.

    Metrics: mlm_loss, mlm_accuracy, generator_entropy; under `electra` also rtd_loss, rtd_auc, rtd_auc_unigram
    (the same rows corrupted by draws from the corpus' unigram distribution, comparable across generators),
    rtd_precision and rtd_recall at probability .5, and replaced_share, each over the tokens of the RTD loss. Empty
    where there are no batches.
    """
    cumulative = jnp.asarray(np.cumsum(unigram_counts / max(unigram_counts.sum(), 1)), jnp.float32)
    total: Any = None
    for ids, rows in batches:
        part = jax.device_get(eval_step(params, ids, rows, cumulative))
        part = jax.tree.map(lambda x: np.asarray(x, np.float64), part)
        total = part if total is None else jax.tree.map(np.add, total, part)
    return {} if total is None else summarize(total)


def summarize(total: dict[str, Any]) -> dict[str, float]:
    """Sums to metrics."""
    result = {
        name: float(value[0] / max(value[1], 1.0))
        for name, value in total.items()
        if not isinstance(value, health.Histogram)
    }
    if "rtd" in total:
        precision, recall = health.precision_recall(total["rtd"])
        result |= {
            "rtd_auc": health.auc(total["rtd"]),
            "rtd_auc_unigram": health.auc(total["rtd_unigram"]),
            "rtd_precision": precision,
            "rtd_recall": recall,
            "replaced_share": health.replaced_share(total["rtd"]),
        }
    return result
