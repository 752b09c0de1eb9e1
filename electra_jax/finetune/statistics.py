"""The members of a fine-tuning together: medians, as in the paper, and how far the members spread."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float


class Summary(NamedTuple):
    """Figures over the `n` members that have one; `diverged` counts the others."""

    n: int
    median: float
    mean: float
    std: float  # of the population the members are drawn from (ddof 1); 0 for a single one
    q1: float
    q3: float
    low: float
    high: float
    diverged: int


def summarise(values: Float[np.ndarray, " n"]) -> Summary:
    """The figures of the finite values; NaN where there is none."""
    finite = values[np.isfinite(values)].astype(np.float64)
    n, diverged = len(finite), len(values) - len(finite)
    if n == 0:
        nan = float("nan")
        return Summary(0, nan, nan, nan, nan, nan, nan, nan, diverged)
    low, q1, median, q3, high = (float(value) for value in np.quantile(finite, (0, 0.25, 0.5, 0.75, 1)))
    std = float(finite.std(ddof=1)) if n > 1 else 0.0
    return Summary(n, median, float(finite.mean()), std, q1, q3, low, high, diverged)
