"""Metrics of classification, regression and tagging: shares from 0 to 1, save for the mean squared error."""

import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Float, Int
from rich.table import Table
from rich.text import Text

from electra_jax.errors import UserError

Tags = Sequence[Sequence[str]]  # of every word of every sentence
AVERAGES = ("micro average", "macro average", "weighted average")


class EntityScore(NamedTuple):
    """How well one type of entity was found, or an average; `support` counts the true entities."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


class _Counts(NamedTuple):
    right: int
    found: int
    true: int


def classification_metrics(
    labels: Int[np.ndarray, " n"], predictions: Int[np.ndarray, " n"], names: tuple[str, ...]
) -> dict[str, float]:
    """The metrics named, of at least one example: accuracy, f1 of label 1, macro_f1, matthews.

    A figure without a denominator is 0. macro_f1 averages over the labels that are true or predicted somewhere.
    Raises UserError where f1 is asked for and there are more than two labels.
    """
    from sklearn import metrics

    if "f1" in names and max(labels.max(), predictions.max()) > 1:
        raise UserError("the metric f1 is for tasks with two labels: choose macro_f1, accuracy or matthews")
    # scikit-learn says 0, too, but with a warning.
    one_label = len(np.union1d(labels, predictions)) == 1
    known: dict[str, Callable[[], float]] = {
        "accuracy": lambda: metrics.accuracy_score(labels, predictions),
        "f1": lambda: metrics.f1_score(labels, predictions, zero_division=0),
        "macro_f1": lambda: metrics.f1_score(labels, predictions, average="macro", zero_division=0),
        "matthews": lambda: 0.0 if one_label else metrics.matthews_corrcoef(labels, predictions),
    }
    return {name: float(known[name]()) for name in names}


def regression_metrics(
    scores: Float[np.ndarray, " n"], predictions: Float[np.ndarray, " n"], names: tuple[str, ...]
) -> dict[str, float]:
    """The metrics named: pearson, spearman, mse. Predictions that are not finite make all of them NaN.

    A constant correlates with nothing: 0, as GLUE counts it.
    """
    from scipy import stats

    scores, predictions = scores.astype(np.float64), predictions.astype(np.float64)
    if not np.isfinite(predictions).all():
        return dict.fromkeys(names, float("nan"))
    known: dict[str, Callable[[], float]] = {
        "pearson": lambda: _correlation(stats.pearsonr, scores, predictions),
        "spearman": lambda: _correlation(stats.spearmanr, scores, predictions),
        "mse": lambda: float(np.mean((scores - predictions) ** 2)),
    }
    return {name: known[name]() for name in names}


def tagging_metrics(
    tags: Tags, predictions: Tags, scheme: Literal["iob1", "iob2", "none"], names: tuple[str, ...]
) -> dict[str, float]:
    """The metrics named: precision, recall and f1 over all entities, accuracy over all words.

    An entity is right if its type and both ends are. Entities are read as seqeval does by default, which is the
    definition of CoNLL's conlleval: IOB1 and IOB2 alike, and an I- that continues nothing begins an entity.
    Without a scheme each word's tag stands for itself, and all four figures are the same.
    """
    pairs = [pair for true, found in zip(tags, predictions, strict=True) for pair in zip(true, found, strict=True)]
    accuracy = _ratio(sum(true == found for true, found in pairs), len(pairs))
    if scheme == "none":
        return dict.fromkeys(names, accuracy)
    if names == ("accuracy",):
        return {"accuracy": accuracy}
    score = _score("all", _sum(_counts(tags, predictions).values()))
    return {name: accuracy if name == "accuracy" else getattr(score, name) for name in names}


def entity_report(tags: Tags, predictions: Tags) -> list[EntityScore]:
    """A score for each type of entity, sorted, then the micro, macro and weighted averages, as seqeval has them.

    The types are those that are true or predicted somewhere. For tags of a scheme only.
    """
    counts = _counts(tags, predictions)
    types = [_score(name, counts[name]) for name in sorted(counts)]
    micro = _score(AVERAGES[0], _sum(counts.values()))
    macro = _average(AVERAGES[1], types, [1] * len(types))
    return [*types, micro, macro, _average(AVERAGES[2], types, [score.support for score in types])]


def entity_table(report: Sequence[EntityScore]) -> Table:
    """`entity_report` for people."""
    table = Table()
    table.add_column("entity")
    for name in ("precision", "recall", "F1", "support"):
        table.add_column(name, justify="right")
    for at, score in enumerate(report):
        figures = (f"{figure:.4f}" for figure in (score.precision, score.recall, score.f1))
        last_type = at + 1 == len(report) - len(AVERAGES)
        # As Text, because a type may hold brackets, which a plain cell takes for markup.
        table.add_row(Text(score.name), *figures, f"{score.support:,}", end_section=last_type)
    return table


def metrics_table(metrics: dict[str, float], examples: int) -> Table:
    """Figures for people."""
    table = Table(title=f"{examples:,} examples")
    table.add_column("metric")
    table.add_column("", justify="right")
    for name, value in metrics.items():
        table.add_row(name, f"{value:.4f}")
    return table


def _correlation(correlate: Callable, scores: Float[np.ndarray, " n"], predictions: Float[np.ndarray, " n"]) -> float:
    if len(scores) < 2:
        return 0.0
    from scipy import stats

    with warnings.catch_warnings():
        for kind in (stats.ConstantInputWarning, stats.NearConstantInputWarning):
            warnings.simplefilter("ignore", kind)
        value = float(correlate(scores, predictions).statistic)
    return 0.0 if np.isnan(value) else value


def _counts(tags: Tags, predictions: Tags) -> dict[str, _Counts]:
    """The counts of each type of entity. Both sides are read once, because that is what takes the time."""
    true, found = _entities(tags), _entities(predictions)
    counted = [Counter(name for name, _, _ in entities) for entities in (true & found, found, true)]
    return {name: _Counts(*(count[name] for count in counted)) for name in counted[1] | counted[2]}


def _entities(tags: Tags) -> set[tuple[str, int, int]]:
    from seqeval.metrics.sequence_labeling import get_entities

    # An O after each sentence: no entity goes on in the next one.
    return set(get_entities([tag for sentence in tags for tag in (*sentence, "O")]))


def _sum(counts: Iterable[_Counts]) -> _Counts:
    return _Counts(*map(sum, zip(_Counts(0, 0, 0), *counts, strict=True)))


def _score(name: str, counts: _Counts) -> EntityScore:
    precision, recall = _ratio(counts.right, counts.found), _ratio(counts.right, counts.true)
    return EntityScore(name, precision, recall, _ratio(2 * precision * recall, precision + recall), counts.true)


def _average(name: str, scores: Sequence[EntityScore], weights: Sequence[int]) -> EntityScore:
    def mean(figures: Iterable[float]) -> float:
        return _ratio(sum(figure * weight for figure, weight in zip(figures, weights, strict=True)), sum(weights))

    return EntityScore(
        name,
        mean(score.precision for score in scores),
        mean(score.recall for score in scores),
        mean(score.f1 for score in scores),
        sum(score.support for score in scores),
    )


def _ratio(part: int | float, whole: int | float) -> float:
    return part / whole if whole else 0.0
