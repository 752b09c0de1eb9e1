"""What came of a fine-tuning: every member's curve and figures, and what they are together."""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.table import Table

from electra_jax.finetune.config import FinetuneConfig, Member
from electra_jax.finetune.statistics import Summary, summarise


class MemberResult(NamedTuple):
    """A member that has ended. `curve` holds an entry for each evaluation, the last one being what it ended with."""

    seed: int
    learning_rate: float
    diverged: bool
    skipped_steps: int  # updates left out, because a gradient was NaN or infinite
    curve: list[dict[str, float | int]]

    @property
    def final(self) -> dict[str, Any]:
        return self.curve[-1]

    @property
    def member(self) -> Member:
        return Member(self.seed, self.learning_rate)


class RateSummary(NamedTuple):
    """A metric over the seeds of one learning rate."""

    learning_rate: float
    metric: str
    summary: Summary


# Errors: the less the better. Of what stands in a curve, these are no metrics.
ERRORS = ("mse",)
ABOUT = ("step", "epoch", "loss", "seconds", "n")


def worth(metric: str, value: float) -> float:
    """The value as one that is better the higher it is; -inf for what is not finite."""
    if not math.isfinite(value):
        return -math.inf
    return -value if metric.rpartition("/")[2] in ERRORS else value


def main_metric(config: FinetuneConfig) -> str:
    """The metric that chooses."""
    return config.task.metrics[0]


def best_of(results: Sequence[MemberResult], metric: str) -> MemberResult | None:
    """The member that ended best; the first of equals. None where all have diverged."""
    whole = [result for result in results if not result.diverged and math.isfinite(result.final[metric])]
    return max(whole, key=lambda result: worth(metric, result.final[metric])) if whole else None


def metrics_of(results: Sequence[MemberResult]) -> list[str]:
    """Every metric that was measured, in its order."""
    names = dict.fromkeys(name for result in results for name in result.final)
    return [name for name in names if name.rpartition("/")[2] not in ABOUT]


def summaries(results: Sequence[MemberResult]) -> list[RateSummary]:
    """Every metric over the seeds of every learning rate."""
    return [
        RateSummary(rate, metric, summarise(_values(results, rate, metric)))
        for rate in dict.fromkeys(result.learning_rate for result in results)
        for metric in metrics_of(results)
    ]


def best_rate(results: Sequence[MemberResult], metric: str) -> RateSummary:
    """The learning rate whose median is best (the paper reports medians).

    A seed that has diverged is the worst of its rate: or a rate at which one seed of five survived could win by it.
    The figures are of those that have not.
    """
    found = [summary for summary in summaries(results) if summary.metric == metric]

    def median(rate: float) -> float:
        values = [worth(metric, float(value)) for value in _values(results, rate, metric)]
        return float(np.median(values))

    return max(found, key=lambda found: (median(found.learning_rate), worth(metric, found.summary.median)))


def _values(results: Sequence[MemberResult], rate: float, metric: str) -> np.ndarray:
    return np.array(
        [
            math.nan if result.diverged else result.final.get(metric, math.nan)
            for result in results
            if result.learning_rate == rate
        ]
    )


def results_json(config: FinetuneConfig, results: Sequence[MemberResult], about: dict[str, Any]) -> dict[str, Any]:
    """What results.json holds."""
    metric = main_metric(config)
    saved, best = best_of(results, metric), best_rate(results, metric)
    values = {
        **about,
        "task": config.task.name,
        "metric": metric,
        "median": best.summary.median,
        "of_seeds": best.summary.n,
        "learning_rate": best.learning_rate,  # the one of that median, the best
        "best": None if saved is None else saved.final[metric],
        "saved_member": None if saved is None else saved.member._asdict(),
        "by_learning_rate": [
            {"learning_rate": found.learning_rate, "metric": found.metric, **found.summary._asdict()}
            for found in summaries(results)
        ],
        "members": [result._asdict() for result in results],
    }
    return _finite(values)


def _finite(value: Any) -> Any:
    """The value with null, which JSON has, for NaN and infinity, which it has not."""
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def figure(metric: str, value: float) -> str:
    """A metric for people: in percent, except what is no share: squared errors and thresholds."""
    if not math.isfinite(value):
        return "–"
    is_share = metric.rpartition("/")[2] not in ERRORS and not metric.endswith("_threshold")
    return f"{100 * value:.1f}" if is_share else f"{value:.3f}"


def results_table(config: FinetuneConfig, results: Sequence[MemberResult]) -> Table:
    """For people: each learning rate's metrics over its seeds, in 80 columns."""
    best = best_rate(results, main_metric(config))
    seeds = len(config.seeds)
    table = Table(title=f"{config.task.name}, {seeds} seed{'s' if seeds > 1 else ''}", box=box.SIMPLE_HEAD)
    columns = ("rate", "metric", "median", "mean ± std", "quartiles", "range", "diverged")
    some_diverged = any(result.diverged for result in results)
    table.pad_edge, table.padding = False, (0, 0 if some_diverged else 1, 0, 0)
    for name in columns if some_diverged else columns[:-1]:
        if name == "metric":
            table.add_column(name, overflow="fold")  # so that no figure is cut off where names are long
        else:
            table.add_column(name, justify="right", no_wrap=True)
    before = None
    for rate, metric, s in summaries(results):
        shown = partial(figure, metric)
        cells = (
            "" if rate == before else f"{rate:g}",
            metric,
            shown(s.median),
            f"{shown(s.mean)} ± {shown(s.std)}",
            f"{shown(s.q1)}–{shown(s.q3)}",
            f"{shown(s.low)}–{shown(s.high)}",
            str(s.diverged),
        )
        chosen = rate == best.learning_rate and metric == best.metric
        table.add_row(*cells[: len(table.columns)], style="bold" if chosen else "")
        before = rate
    return table
