"""The metrics of classification, regression and tagging, against their libraries and against tables made by hand."""

import io
import math

import numpy as np
import pytest
import seqeval.metrics
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from scipy import stats
from seqeval.metrics.sequence_labeling import precision_recall_fscore_support
from sklearn import metrics as sk

from electra_jax.errors import UserError
from electra_jax.tasks.metrics import (
    AVERAGES,
    EntityScore,
    classification_metrics,
    entity_report,
    entity_table,
    regression_metrics,
    tagging_metrics,
)
from electra_jax.tasks.task import METRICS

CLASSIFICATION, REGRESSION, TAGGING = (METRICS[kind] for kind in ("classification", "regression", "tagging"))
pairs_of_labels = st.lists(st.tuples(st.integers(0, 1), st.integers(0, 1)), min_size=1)
numbers = st.floats(-1e3, 1e3, width=32)
tag = st.sampled_from(["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "B-x-y"])
pairs_of_tags = st.lists(st.lists(st.tuples(tag, tag), max_size=8), min_size=1, max_size=6)


def apart(pairs: list[list[tuple[str, str]]]) -> tuple[list[list[str]], list[list[str]]]:
    return [[true for true, _ in sentence] for sentence in pairs], [[found for _, found in s] for s in pairs]


def test_classification_by_hand():
    # Label 1: 2 right, 1 found wrongly, 1 missed, so P = R = F1 = 2/3. Label 0: 1 right, 1 wrongly, 1 missed: 1/2.
    got = classification_metrics(np.array([1, 1, 1, 0, 0]), np.array([1, 1, 0, 1, 0]), CLASSIFICATION)
    want = {"accuracy": 3 / 5, "f1": 2 / 3, "macro_f1": (2 / 3 + 1 / 2) / 2, "matthews": (2 * 1 - 1 * 1) / 6}
    assert got == pytest.approx(want)
    assert list(got) == list(CLASSIFICATION)
    assert all(type(value) is float for value in got.values())


def test_classification_with_three_labels_is_scikit_learns():
    rng = np.random.default_rng(1)
    labels, predictions = rng.integers(0, 3, 200), rng.integers(0, 3, 200)
    got = classification_metrics(labels, predictions, ("matthews", "macro_f1", "accuracy"))
    assert got["matthews"] == pytest.approx(sk.matthews_corrcoef(labels, predictions))
    assert got["macro_f1"] == pytest.approx(np.mean(sk.f1_score(labels, predictions, average=None)))
    assert got["accuracy"] == pytest.approx(np.mean(labels == predictions))


@pytest.mark.parametrize("third", ["labels", "predictions"])
def test_f1_of_three_labels_is_refused(third):
    both = {"labels": np.array([0, 1]), "predictions": np.array([0, 1])} | {third: np.array([0, 2])}
    with pytest.raises(UserError, match=r"two labels: choose macro_f1"):
        classification_metrics(**both, names=("accuracy", "f1"))


@pytest.mark.parametrize(
    ("labels", "predictions", "want"),
    [
        ([0, 1, 1], [0, 0, 0], (1 / 3, 0.0, 0.25, 0.0)),  # says one thing always
        ([0, 0], [0, 0], (1.0, 0.0, 1.0, 0.0)),  # one label everywhere: no correlation, and nothing positive
        ([1, 1], [1, 1], (1.0, 1.0, 1.0, 0.0)),
        ([1], [0], (0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_figures_without_a_denominator_are_0_and_silent(labels, predictions, want):
    got = classification_metrics(np.array(labels), np.array(predictions), CLASSIFICATION)
    assert tuple(got.values()) == pytest.approx(want)


@settings(deadline=None)
@given(pairs_of_labels, st.randoms())
def test_classification_keeps_its_range_whatever_the_order(pairs, random):
    got = classification_metrics(*np.array(pairs).T, CLASSIFICATION)
    assert all(0 <= got[name] <= 1 for name in ("accuracy", "f1", "macro_f1"))
    assert -1 <= got["matthews"] <= 1
    random.shuffle(pairs)
    assert classification_metrics(*np.array(pairs).T, CLASSIFICATION) == pytest.approx(got)


@settings(deadline=None)
@given(st.lists(st.integers(0, 1)))
def test_perfect_classification_scores_1(some):
    labels = np.array([0, 1, *some])
    assert classification_metrics(labels, labels, CLASSIFICATION) == pytest.approx(dict.fromkeys(CLASSIFICATION, 1.0))


def test_regression_by_hand_and_by_scipy():
    scores, predictions = np.array([0.0, 1.0, 2.0, 5.0]), np.array([1.0, 1.0, 3.0, 4.0])
    got = regression_metrics(scores, predictions, REGRESSION)
    # Deviations from the means 2 and 2.25 multiply to 9, and square to 14 and 6.75. The ranks are 1 2 3 4 and
    # 1.5 1.5 3 4: products 4.5, squares 5 and 4.5.
    want = {"pearson": 9 / math.sqrt(14 * 6.75), "spearman": 4.5 / math.sqrt(5 * 4.5), "mse": 3 / 4}
    assert got == pytest.approx(want)
    assert got["pearson"] == pytest.approx(stats.pearsonr(scores, predictions).statistic)
    assert got["spearman"] == pytest.approx(stats.spearmanr(scores, predictions).statistic)


@pytest.mark.parametrize("constant", [0.0, 0.1, 3.3, 1e6])
def test_a_constant_correlates_with_nothing(constant):
    scores, predictions = np.linspace(0, 5, 7, dtype=np.float32), np.full(7, constant, np.float32)
    for pair in ((scores, predictions), (predictions, scores)):
        got = regression_metrics(*pair, ("spearman", "pearson", "mse"))
        assert (got["spearman"], got["pearson"]) == (0.0, 0.0)
        assert got["mse"] > 0


def test_what_is_constant_but_for_rounding_does_not_warn():
    got = regression_metrics(np.arange(5.0), 1 + np.arange(5) * 2e-16, REGRESSION)
    assert all(math.isfinite(value) for value in got.values())


def test_one_example_correlates_with_nothing():
    assert regression_metrics(np.ones(1), np.zeros(1), REGRESSION) == {"pearson": 0.0, "spearman": 0.0, "mse": 1.0}


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_member_that_diverged_has_no_figures(wrong):
    got = regression_metrics(np.arange(3.0), np.array([0.0, wrong, 2.0]), REGRESSION)
    assert list(got) == list(REGRESSION)
    assert all(math.isnan(value) for value in got.values())


@settings(deadline=None)
@given(st.lists(st.tuples(numbers, numbers), min_size=2), st.randoms())
def test_regression_keeps_its_range_whatever_the_order_or_side(pairs, random):
    got = regression_metrics(*np.array(pairs).T, REGRESSION)
    assert all(-1 - 1e-9 <= got[name] <= 1 + 1e-9 for name in ("pearson", "spearman"))
    assert got["mse"] >= 0
    other = regression_metrics(*np.array(pairs).T[::-1], REGRESSION)
    assert other == pytest.approx(got, abs=1e-6)
    random.shuffle(pairs)
    # Nearly constant figures correlate by their rounding.
    again = regression_metrics(*np.array(pairs).T, ("spearman", "mse"))
    assert again == pytest.approx({name: got[name] for name in again}, abs=1e-6)


def test_perfect_regression_correlates_fully():
    scores = np.random.default_rng(0).random(50)
    assert regression_metrics(scores, scores, REGRESSION) == pytest.approx({"pearson": 1, "spearman": 1, "mse": 0})


def test_tagging_by_hand():
    tags = [["B-PER", "I-PER", "O", "B-LOC"], ["B-LOC", "O"]]
    found = [["B-PER", "O", "O", "B-LOC"], ["I-LOC", "B-PER"]]
    # Found: PER 0–0 (too short), LOC, LOC (its I- begins it), PER (invented). Right: the two LOC of three entities.
    want = {"f1": 4 / 7, "precision": 2 / 4, "recall": 2 / 3, "accuracy": 3 / 6}
    assert tagging_metrics(tags, found, "iob2", TAGGING) == pytest.approx(want)
    assert tagging_metrics(tags, found, "iob2", ("accuracy",)) == {"accuracy": 0.5}


@pytest.mark.parametrize(
    ("iob1", "iob2"),
    [
        (["I-PER", "I-PER", "O"], ["B-PER", "I-PER", "O"]),
        (["I-PER", "B-PER", "I-PER"], ["B-PER", "B-PER", "I-PER"]),
        (["I-PER", "I-LOC"], ["B-PER", "B-LOC"]),
    ],
)
def test_both_schemes_name_the_same_entities(iob1, iob2):
    assert tagging_metrics([iob1], [iob2], "iob1", ("f1",)) == {"f1": 1.0}
    assert tagging_metrics([iob2], [iob1], "iob2", ("f1",)) == {"f1": 1.0}


def test_an_entity_ends_with_its_sentence():
    tags = [["O", "I-PER"], ["I-PER"]]
    assert entity_report(tags, tags)[0].support == 2


def test_tags_without_a_scheme_are_counted_one_by_one():
    tags, found = [["NN", "VB"], ["NN", "JJ", "O"]], [["NN", "NN"], ["NN", "JJ", "JJ"]]
    flat = [[tag for sentence in side for tag in sentence] for side in (tags, found)]
    got = tagging_metrics(tags, found, "none", TAGGING)
    assert got == pytest.approx(dict.fromkeys(TAGGING, 3 / 5))
    precision, recall, f1, _ = sk.precision_recall_fscore_support(*flat, average="micro", zero_division=0)
    assert (got["precision"], got["recall"], got["f1"]) == pytest.approx((precision, recall, f1))


def test_tags_of_another_number_of_words_are_refused():
    with pytest.raises(ValueError, match=r"zip\(\)"):
        tagging_metrics([["O", "O"]], [["O"]], "iob2", TAGGING)


@settings(deadline=None)
@given(pairs_of_tags)
def test_tagging_is_seqevals(pairs):
    tags, found = apart(pairs)
    got = tagging_metrics(tags, found, "iob2", TAGGING)
    for name in ("precision", "recall", "f1"):
        score = getattr(seqeval.metrics, f"{name}_score")
        assert got[name] == pytest.approx(score(tags, found, zero_division=0))
    if any(pairs):
        assert got["accuracy"] == pytest.approx(seqeval.metrics.accuracy_score(tags, found))


@settings(deadline=None)
@given(pairs_of_tags)
def test_the_report_is_seqevals(pairs):
    tags, found = apart(pairs)
    *types, micro, macro, weighted = entity_report(tags, found)
    want = precision_recall_fscore_support(tags, found, zero_division=0)
    assert [score.name for score in types] == sorted(score.name for score in types)
    for at, score in enumerate(types):
        assert score[1:] == pytest.approx([figures[at] for figures in want])
    assert len(types) == len(want[0])
    if types:
        for score, average in ((micro, "micro"), (macro, "macro"), (weighted, "weighted")):
            want = precision_recall_fscore_support(tags, found, average=average, zero_division=0)
            assert score[1:] == pytest.approx(want)


@settings(deadline=None)
@given(pairs_of_tags, st.randoms())
def test_the_order_of_sentences_changes_nothing_and_perfect_tags_score_1(pairs, random):
    report = entity_report(*apart(pairs))
    assert all(0 <= figure <= 1 for score in report for figure in score[1:4])
    random.shuffle(pairs)
    tags, found = apart(pairs)
    for score, other in zip(report, entity_report(tags, found), strict=True):
        assert score.name == other.name
        assert score[1:] == pytest.approx(other[1:])
    for score in entity_report(tags, tags):
        assert score[1:4] == pytest.approx((1, 1, 1) if score.support else (0, 0, 0))


def test_the_report_by_hand():
    tags = [["B-PER", "O", "B-LOC", "I-LOC", "B-LOC"]]
    found = [["B-PER", "B-ORG", "B-LOC", "I-LOC", "O"]]
    third = 2 / 3
    assert entity_report(tags, found) == [
        EntityScore("LOC", 1.0, 0.5, third, 2),
        EntityScore("ORG", 0.0, 0.0, 0.0, 0),
        EntityScore("PER", 1.0, 1.0, 1.0, 1),
        EntityScore(AVERAGES[0], third, third, third, 3),
        EntityScore(AVERAGES[1], third, 0.5, pytest.approx(5 / 9), 3),
        EntityScore(AVERAGES[2], 1.0, third, pytest.approx(7 / 9), 3),
    ]


def test_the_report_of_nothing_is_0():
    assert entity_report([["O", "O"]], [["O", "O"]]) == [EntityScore(name, 0.0, 0.0, 0.0, 0) for name in AVERAGES]


def test_the_table_shows_every_line():
    report = entity_report([["B-PER", "O", "B-[red]", "B-PER"]], [["B-PER", "O", "B-[red]", "O"]])
    out = io.StringIO()
    Console(file=out, width=80).print(entity_table(report))
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.getvalue().splitlines() if "│" in line]
    assert cells == [
        ["PER", "1.0000", "0.5000", "0.6667", "2"],
        ["[red]", "1.0000", "1.0000", "1.0000", "1"],
        ["micro average", "1.0000", "0.6667", "0.8000", "3"],
        ["macro average", "1.0000", "0.7500", "0.8333", "3"],
        ["weighted average", "1.0000", "0.6667", "0.7778", "3"],
    ]


def test_the_entities_of_conll_2003_are_as_many_as_published(shared_data):
    lines = (shared_data / "tasks" / "conll2003" / "eng.testa").read_text(encoding="utf-8").splitlines()
    sentences = "\n".join(line.split()[-1] if line.strip() else "" for line in lines).split("\n\n")
    tags = [sentence.split() for sentence in sentences]
    support = {score.name: score.support for score in entity_report(tags, tags)[:-3]}
    assert support == {"LOC": 1837, "MISC": 922, "ORG": 1341, "PER": 1842}
