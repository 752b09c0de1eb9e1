"""Each kind's loss against NumPy's, worked out from what the model itself answers to the same batch."""

from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import quick_jit

from electra_jax.finetune import losses
from electra_jax.finetune.batching import collate, flatten
from electra_jax.finetune.encoding import encode_examples
from electra_jax.model.electra import Electra
from electra_jax.model.inputs import create_inputs
from electra_jax.tasks.examples import Answer, Example, TaggedExample, TextExample
from electra_jax.tasks.task import Task
from tests.finetune.tiny_tasks import WHERE, question, task, tiny_model, tokenizer_of

LENGTH = 24
# The third row twice, and a place without a row.
ROWS = np.array([2, 0, -1, 1, 2])
WEIGHTS = np.array([1, 1, 0, 1, 1])
CLASSES = task("classification", labels=("a", "b", "c"))
SCORES = task("regression", low=0.0, high=5.0)
TAGS = task("tagging", labels=("O", "X", "Y"))
QUESTIONS = task("question_answering")
ANSWERABLE = task("question_answering", answerability=True)
CONTEXT = "The value of an expression is returned"
EXAMPLES: dict[str, list[Example]] = {
    "classification": [
        TextExample("The value of an expression", None, "c", WHERE),
        TextExample("is returned", "of lists", "a", WHERE),
        TextExample("an expression", None, "b", WHERE),
    ],
    "regression": [
        TextExample("The value", "of an expression", 5.0, WHERE),
        TextExample("is returned", "of lists", 1.5, WHERE),
        TextExample("an expression", "an expression", 0.0, WHERE),
    ],
    "tagging": [
        TaggedExample(("The", "value", "of", "incomprehensible"), ("O", "X", "O", "Y"), WHERE),
        TaggedExample(("incomprehensible", "expressions"), ("Y", "X"), WHERE),
        TaggedExample(("returned",), ("X",), WHERE),
    ],
    "question_answering": [
        question(CONTEXT, Answer("an expression", CONTEXT.index("an expression"))),
        question(CONTEXT, impossible=True),
        question(CONTEXT, Answer("returned", CONTEXT.index("returned"))),
    ],
}


def make_batch(task: Task, rows: np.ndarray = ROWS) -> dict[str, np.ndarray]:
    tokenizer = tokenizer_of("wordpiece")
    encoded = encode_examples(task, EXAMPLES[task.kind], tokenizer, LENGTH, training=True)
    assert len(encoded.rows) == 3
    return collate(flatten(encoded, tokenizer.special), rows, LENGTH)


@cache
def made(task: Task, form: str) -> tuple[Electra, Any, Any]:
    """A model, its parameters, and its loss as a function of a batch."""
    found = tiny_model(task, form=form)
    params = jax.tree.map(jnp.asarray, found.params)
    loss = quick_jit(lambda batch: losses.task_loss(found.model, task, found.special, params, batch, None))
    return found.model, params, loss


def loss_of(task: Task, batch: dict[str, np.ndarray], form: str = "paper") -> tuple[float, float]:
    total, weight = made(task, form)[2](batch)
    return float(total), float(weight)


def answers(task: Task, batch: dict[str, np.ndarray], *more: Any, form: str = "paper") -> Any:
    """The model's own logits, in float64."""
    model, params, _ = made(task, form)

    def apply(ids: jax.Array, *more: jax.Array) -> Any:
        inputs = create_inputs(ids, tokenizer_of("wordpiece").special)
        if more:
            return model.apply({"params": params}, inputs, *more, 1, method=Electra.span_logits)
        return model.apply({"params": params}, inputs, method=Electra.task_logits)

    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), quick_jit(apply)(batch["ids"], *more))


def cross_entropy(logits: np.ndarray, label: int) -> float:
    return float(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[label])


def test_classification() -> None:
    batch = make_batch(CLASSES)
    assert batch["label"][WEIGHTS > 0].tolist() == [1, 2, 0, 1]
    logits = answers(CLASSES, batch)
    expected = [cross_entropy(logits[row], label) for row, label in ((0, 1), (1, 2), (3, 0), (4, 1))]
    assert len({round(value, 3) for value in expected}) == 3  # rows that differ: a wrong pairing would show
    assert loss_of(CLASSES, batch) == pytest.approx((sum(expected), 4))


def test_regression_is_on_the_scale_of_0_to_1() -> None:
    batch = make_batch(SCORES)
    scores = answers(SCORES, batch)[:, 0]
    expected = sum((scores[row] - score / 5) ** 2 for row, score in ((0, 0.0), (1, 5.0), (3, 1.5), (4, 0.0)))
    assert loss_of(SCORES, batch) == pytest.approx((expected, 4))


def test_tagging_counts_words() -> None:
    """Each word once, by its first piece; pieces that continue a word, special tokens and padding not at all."""
    batch = make_batch(TAGS)
    words = [(row, at) for row in np.flatnonzero(WEIGHTS) for at in np.flatnonzero(batch["tags"][row] >= 0)]
    assert len(words) == 1 + 4 + 2 + 1
    tokens = (batch["ids"] > 0).sum(1) - 2
    assert tokens[1] > 4  # a word in several pieces
    assert tokens[3] > 2
    logits = answers(TAGS, batch)
    expected = sum(cross_entropy(logits[row, at], batch["tags"][row, at]) for row, at in words)
    assert loss_of(TAGS, batch) == pytest.approx((expected, 8))


def spans_loss(found: Any, batch: dict[str, np.ndarray], row: int) -> float:
    start, end = batch["start"][row], batch["end"][row]
    return 0.5 * (cross_entropy(found.start[row], start) + cross_entropy(found.end[row, 0], end))


@pytest.mark.parametrize("form", ["paper", "huggingface"])
def test_question_answering(form: str) -> None:
    batch = make_batch(QUESTIONS)
    rows = np.flatnonzero(WEIGHTS)
    assert (batch["start"][rows] < batch["end"][rows]).any()  # an answer of several tokens
    assert (batch["start"][rows] == 0).sum() == 1  # and one that is not there
    found = answers(QUESTIONS, batch, batch["start"][:, None], form=form)
    assert found.no_answer is None
    expected = sum(spans_loss(found, batch, row) for row in rows)
    assert loss_of(QUESTIONS, batch, form) == pytest.approx((expected, 4))


def test_answerability_counts_half() -> None:
    batch = make_batch(ANSWERABLE)
    rows = np.flatnonzero(WEIGHTS)
    assert batch["no_answer"][rows].tolist() == [0, 0, 1, 0]
    found = answers(ANSWERABLE, batch, batch["start"][:, None])
    expected = 0.0
    for row in rows:
        probability = 1 / (1 + np.exp(-found.no_answer[row]))
        said = probability if batch["no_answer"][row] else 1 - probability
        expected += spans_loss(found, batch, row) - 0.5 * float(np.log(said))
    assert loss_of(ANSWERABLE, batch) == pytest.approx((expected, 4))


@pytest.mark.parametrize("task", [CLASSES, SCORES, TAGS, QUESTIONS, ANSWERABLE], ids=lambda task: task.kind)
def test_places_without_a_row_add_nothing(task: Task) -> None:
    """Whatever stands there."""
    batch, before = make_batch(task), loss_of(task, make_batch(task))
    for name in batch.keys() - {"ids", "weight"}:
        batch[name][ROWS < 0] = 1  # a target that would count
    assert loss_of(task, batch) == before
    batch["weight"][ROWS < 0] = 1
    assert loss_of(task, batch) != before
