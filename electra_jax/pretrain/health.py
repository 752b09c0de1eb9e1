"""How well replaced tokens are told from original ones, as sums that merge over batches and devices.

Plain accuracy is no measure: "original" everywhere is right about nine times in ten. These are.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

BINS = 2048
# Logits beyond ± LIMIT share the outermost bins.
LIMIT = 16.0


class Histogram(NamedTuple):
    """Real tokens by the discriminator's logit: one count of the replaced, one of the original ones."""

    replaced: Float[Array, " bins"]
    original: Float[Array, " bins"]


def histogram(logits: Float[Array, "b l"], is_replaced: Bool[Array, "b l"], mask: Bool[Array, "b l"]) -> Histogram:
    """Counts one batch. Bin BINS / 2 begins at logit 0, so that precision and recall at .5 are exact."""
    # Scaled by a power of two before anything is added: a logit just below 0 stays below.
    place = jnp.floor(logits.ravel() * (BINS / (2 * LIMIT))) + BINS // 2
    place = jnp.clip(jnp.nan_to_num(place), 0, BINS - 1).astype(jnp.int32)
    replaced, real = is_replaced.ravel(), mask.ravel()
    empty = jnp.zeros(BINS)
    return Histogram(
        replaced=empty.at[place].add((replaced & real).astype(jnp.float32)),
        original=empty.at[place].add((~replaced & real).astype(jnp.float32)),
    )


def auc(counts: Histogram) -> float:
    """P(a replaced token scores above an original one), ties counting half; NaN where one kind is missing."""
    replaced, original = np.asarray(counts.replaced, np.float64), np.asarray(counts.original, np.float64)
    below = np.cumsum(original) - original
    wins = (replaced * (below + 0.5 * original)).sum()
    pairs = replaced.sum() * original.sum()
    return float(wins / pairs) if pairs else float("nan")


def precision_recall(counts: Histogram) -> tuple[float, float]:
    """Precision and recall where "replaced" is said above probability .5; NaN where there is nothing to divide."""
    said_right = float(np.asarray(counts.replaced)[BINS // 2 :].sum())
    said = said_right + float(np.asarray(counts.original)[BINS // 2 :].sum())
    there = float(np.asarray(counts.replaced).sum())
    return (said_right / said if said else float("nan")), (said_right / there if there else float("nan"))


def replaced_share(counts: Histogram) -> float:
    """Share of all real tokens that the generator changed."""
    replaced, original = float(np.asarray(counts.replaced).sum()), float(np.asarray(counts.original).sum())
    return replaced / max(replaced + original, 1.0)


def entropy(logits: Float[Array, "b s v"]) -> Float[Array, "b s"]:
    """Entropy in nats of the generator's distribution at each slot."""
    log_p = jax.nn.log_softmax(logits, axis=-1)
    return -(jnp.exp(log_p) * log_p).sum(axis=-1)
