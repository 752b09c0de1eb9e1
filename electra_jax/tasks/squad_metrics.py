"""Exact match and F1 as SQuAD 1.1 and 2.0 define them, as shares from 0 to 1, and the best no-answer threshold."""

import math
import re
import string
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

import numpy as np
from jaxtyping import Bool, Float

from electra_jax.errors import UserError
from electra_jax.tasks.examples import QuestionExample

Value = TypeVar("Value", str, float)

_PUNCTUATION = str.maketrans("", "", string.punctuation)  # ASCII's only, as in the definition
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def normalise(answer: str) -> str:
    """Lower case, no punctuation, no articles, single spaces: answers that differ in these only are the same."""
    return " ".join(_ARTICLES.sub(" ", answer.lower().translate(_PUNCTUATION)).split())


def gold_answers(question: QuestionExample) -> list[str]:
    """What may be answered, normalised; the empty answer alone where there is none, or nothing of any is left.

    Raises UserError where the question is not labelled.
    """
    if not question.answers and not question.is_impossible:
        raise UserError(
            f"{question.where}: question {question.id!r} has no answer and is not marked as impossible: "
            "measure on questions that are answered"
        )
    texts = () if question.is_impossible else (normalise(answer.text) for answer in question.answers)
    return sorted({text for text in texts if text}) or [""]


def token_f1(answer: str, gold: str) -> float:
    """F1 of the words in common, of normalised answers; an empty one agrees with another empty one only."""
    words, gold_words = answer.split(), gold.split()
    if not words or not gold_words:
        return float(words == gold_words)
    common = (Counter(words) & Counter(gold_words)).total()
    return 2 * common / (len(words) + len(gold_words))


def squad_metrics(
    predictions: Mapping[str, str],
    questions: Sequence[QuestionExample],
    no_answer_scores: Mapping[str, float] | None = None,
    threshold: float = math.inf,
) -> dict[str, float]:
    """Exact match and F1 of the answers to at least one question, by the questions' ids; "" is no answer.

    A question whose no-answer score is above the threshold counts as not answered. With impossible questions
    come the figures of the others, and the share of the impossible that are left without an answer. With
    no-answer scores come the best figures that any threshold gives: for those, `predictions` must hold an answer
    for every question.

    Raises UserError where a prediction or a score is missing, or a question is not labelled.
    """
    answered = np.array([_compare(_of(predictions, question, "prediction"), question) for question in questions])
    has_answer = np.array([not question.is_impossible for question in questions])
    unanswered = (~has_answer).astype(np.float64)
    exact, f1 = answered.T
    best: dict[str, float] = {}
    if no_answer_scores is not None:
        scores = np.array([_of(no_answer_scores, question, "no-answer score") for question in questions], np.float64)
        for name, values in (("exact_match", exact), ("f1", f1)):
            best[f"best_{name}"], best[f"best_{name}_threshold"] = best_threshold(scores, values, unanswered)
        exact, f1 = (np.where(scores > threshold, unanswered, values) for values in (exact, f1))
    return {**_means(exact, f1), **_parts(exact, f1, has_answer), **best, "n": float(len(questions))}


def best_threshold(
    scores: Float[np.ndarray, " n"], answered: Float[np.ndarray, " n"], unanswered: Float[np.ndarray, " n"]
) -> tuple[float, float]:
    """The best mean over all thresholds, and the lowest threshold that gives it.

    A question is worth `answered` if its no-answer score is at most the threshold, and `unanswered` if above.
    Equal scores fall on the same side: the published script parts them, which no threshold can do.
    """
    order = np.argsort(scores, kind="stable")
    scores = scores[order]
    totals = unanswered.sum() + np.cumsum((answered - unanswered)[order])
    last = np.append(scores[1:] != scores[:-1], True)  # of those with the same score
    # Below every score nothing is answered.
    thresholds = np.append(scores[0] - 1.0, scores[last])
    totals = np.append(unanswered.sum(), totals[last])
    at = int(totals.argmax())
    return float(totals[at] / len(scores)), float(thresholds[at])


def _compare(prediction: str, question: QuestionExample) -> tuple[float, float]:
    """(exact match, F1) with the gold answer that is nearest."""
    answer, gold = normalise(prediction), gold_answers(question)
    return float(answer in gold), max(token_f1(answer, text) for text in gold)


def _of(values: Mapping[str, Value], question: QuestionExample, what: str) -> Value:
    if question.id not in values:
        raise UserError(f"there is no {what} for question {question.id!r} ({question.where}): add one")
    return values[question.id]


def _means(exact: Float[np.ndarray, " n"], f1: Float[np.ndarray, " n"]) -> dict[str, float]:
    return {"exact_match": float(exact.mean()), "f1": float(f1.mean())}


def _parts(
    exact: Float[np.ndarray, " n"], f1: Float[np.ndarray, " n"], has_answer: Bool[np.ndarray, " n"]
) -> dict[str, float]:
    """The figures of the questions with an answer and of those without, where there are any without."""
    if has_answer.all():
        return {}
    parts = {"no_answer_accuracy": float(exact[~has_answer].mean())}
    if has_answer.any():
        means = _means(exact[has_answer], f1[has_answer])
        parts = {f"has_answer_{name}": value for name, value in means.items()} | parts
    return parts
