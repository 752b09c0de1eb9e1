"""Held-out examples, answered by every member at once, and what the answers are worth."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from electra_jax.config import SpecialTokens
from electra_jax.finetune.batching import collate, evaluation_batches, flatten
from electra_jax.finetune.encoding import Encoded
from electra_jax.finetune.spans import Prediction, answer_questions
from electra_jax.tasks.examples import Example, QuestionExample, TaggedExample, TextExample
from electra_jax.tasks.metrics import classification_metrics, regression_metrics, tagging_metrics
from electra_jax.tasks.squad_metrics import squad_metrics
from electra_jax.tasks.task import Task

EVAL_BATCH = 64  # rows
NO_ANSWER_THRESHOLD = 0.0  # log-odds or difference of scores from which on "no answer" is said


class HeldOut(NamedTuple):
    """Labelled examples nothing is trained on, encoded. `name` sets their metrics apart; the main ones have none."""

    name: str
    examples: Sequence[Example]
    rows: Encoded


def answer_rows(
    ask: Callable[[Any], dict[str, Any]],
    rows: Encoded,
    special: SpecialTokens,
    buckets: tuple[int, ...],
    batch_size: int = EVAL_BATCH,
    members: bool = True,
) -> dict[str, list[np.ndarray]]:
    """What `ask` says of every row: for each output one array a row, [members, …] where there are members.

    `ask` takes ids [batch, length].
    """
    found: dict[str, list[Any]] = {}
    flat = flatten(rows, special)
    plan = evaluation_batches(flat.lengths[:-1], buckets, batch_size)
    batches = zip(plan.rows, plan.bucket, strict=True)

    def read(numbers: np.ndarray, outputs: dict[str, Any]) -> None:
        for name, values in jax.device_get(outputs).items():
            per_row = np.moveaxis(values, 1, 0) if members else values
            places = found.setdefault(name, [None] * len(rows.rows))
            for number, value in zip(numbers, per_row, strict=True):
                if number >= 0:
                    places[number] = np.asarray(value)  # of one score a row, a scalar

    # One batch late: the device computes the next one meanwhile, and holds no more than two.
    waiting: tuple[np.ndarray, dict[str, Any]] | None = None
    for numbers, size in batches:
        before, waiting = waiting, (numbers, ask(collate(flat, numbers, int(size))["ids"]))
        if before is not None:
            read(*before)
    if waiting is not None:
        read(*waiting)
    return found


def of_member(outputs: dict[str, list[np.ndarray]], member: int) -> dict[str, list[np.ndarray]]:
    """One member's share of what `answer_rows` found."""
    return {name: [np.asarray(row[member]) for row in rows] for name, rows in outputs.items()}


def measure(
    task: Task,
    examples: Sequence[Example],
    rows: Encoded,
    outputs: dict[str, list[np.ndarray]],
    threshold: float = NO_ANSWER_THRESHOLD,
) -> dict[str, float]:
    """One member's metrics on labelled examples, the task's own first; `threshold` is for SQuAD 2.0."""
    if task.kind == "question_answering":
        questions = [example for example in examples if isinstance(example, QuestionExample)]
        return question_metrics(task, questions, predict_answers(questions, rows, outputs), threshold)
    if task.kind == "tagging":
        gold = [list(example.tags or ()) for example in examples if isinstance(example, TaggedExample)]
        return tagging_metrics(gold, predict_tags(task, examples, rows, outputs)[0], task.scheme, task.metrics)
    given = [example.label for example in examples if isinstance(example, TextExample)]
    scores = np.stack(outputs["scores"])
    if task.kind == "regression":
        return regression_metrics(np.array(given, np.float64), scores.astype(np.float64), task.metrics)
    labels = np.array([task.labels.index(str(label)) for label in given])
    return classification_metrics(labels, scores.argmax(-1), task.metrics)


def predict_tags(
    task: Task, examples: Sequence[Example], rows: Encoded, outputs: dict[str, list[np.ndarray]]
) -> tuple[list[list[str]], list[list[float]]]:
    """The likeliest tag of each word of each example, and its probability."""
    tags: list[list[str]] = [[task.labels[0]] * len(example.words) for example in examples]  # type: ignore[union-attr]
    probabilities = [[0.0] * len(words) for words in tags]
    found = (outputs["tag"], outputs["probability"])
    for owner, places, tag, probability in zip(rows.owners, rows.word_positions, *found, strict=True):
        for word, at in places:
            tags[owner][word], probabilities[owner][word] = task.labels[int(tag[at])], float(probability[at])
    return tags, probabilities


def predict_answers(
    questions: Sequence[QuestionExample], rows: Encoded, outputs: dict[str, list[np.ndarray]]
) -> list[Prediction]:
    """The best answer to each question, over all windows of its context.

    A head with a part of its own for it says by that alone how likely there is no answer (published code).
    """
    start, end, score, null = (np.stack(outputs[name]) for name in ("start", "end", "score", "null"))
    found = answer_questions(questions, rows, start, end, score, null)
    if "no_answer" not in outputs:
        return found
    return [answer._replace(no_answer_score=answer.null_score) for answer in found]


def question_metrics(
    task: Task, questions: Sequence[QuestionExample], found: list[Prediction], threshold: float
) -> dict[str, float]:
    """SQuAD's metrics; with answerability, "" is said above the threshold."""
    texts = {answer.id: answer.text for answer in found}
    if not task.answerability:
        return squad_metrics(texts, questions)
    return squad_metrics(texts, questions, {a.id: a.no_answer_score for a in found}, threshold)
