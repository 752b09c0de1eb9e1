"""A fine-tuned model, ready for use: texts in, typed answers out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import numpy as np

from electra_jax.errors import UserError
from electra_jax.finetune.answers import Answered, Classified, Prediction, Scored, Tagged, TaggedWord
from electra_jax.finetune.encoding import Encoded, encode_examples
from electra_jax.finetune.evaluation import (
    NO_ANSWER_THRESHOLD,
    answer_rows,
    measure,
    predict_answers,
    predict_tags,
)
from electra_jax.finetune.step import answer
from electra_jax.pretrain.pretrained import Pretrained
from electra_jax.tasks.examples import Example, QuestionExample, TaggedExample
from electra_jax.tasks.records import example_of
from electra_jax.tasks.task import Task
from electra_jax.tasks.words import joined_places

# A text; a pair of texts, or a question and its context; the words of a sentence.
Text = str | tuple[str, str] | Sequence[str]

# Rows computed at once, the smallest that holds them all.
BATCHES = (1, 8, 64)

_answer = jax.jit(answer, static_argnums=(0, 1, 2))


@dataclass(frozen=True, eq=False)
class FineTuned(Pretrained):
    """A model with the head of a task. `length` is the longest row it was fine-tuned on."""

    task: Task = None  # type: ignore[assignment]  # a dataclass's later fields need a default
    no_answer_threshold: float = NO_ANSWER_THRESHOLD  # found on the held-out questions, for the best F1

    def predict(self, texts: Iterable[Text]) -> list[Prediction]:
        """What the model says of each text, in their order.

        Classification and regression take texts or pairs, tagging texts or lists of words, question answering pairs
        of question and context. Long texts are cut at the row's end, except contexts and sentences to be tagged,
        which are read in windows.
        Raises UserError for an input of another kind, for an empty one, and for text that is not valid Unicode.
        """
        inputs = [texts] if isinstance(texts, str) else texts
        return self.predict_examples([self._example(given, f"text {number}") for number, given in enumerate(inputs, 1)])

    def predict_examples(self, examples: Sequence[Example]) -> list[Prediction]:
        """`predict` of examples as `reading` gives them."""
        if not examples:
            return []
        rows = self._rows(examples)
        outputs = self._outputs(rows)
        task = self.task
        if task.kind == "question_answering":
            questions = [example for example in examples if isinstance(example, QuestionExample)]
            return [self._answered(found) for found in predict_answers(questions, rows, outputs)]
        if task.kind == "tagging":
            sentences = [example for example in examples if isinstance(example, TaggedExample)]
            return [
                _tagged(*found) for found in zip(sentences, *predict_tags(task, sentences, rows, outputs), strict=True)
            ]
        if task.kind == "regression":
            return [Scored(float(score)) for score in outputs["scores"]]
        return [_classified(task.labels, scores) for scores in outputs["scores"]]

    def measure(self, examples: Sequence[Example]) -> dict[str, float]:
        """The task's metrics on labelled examples."""
        rows = self._rows(examples)
        return measure(self.task, examples, rows, self._outputs(rows), self.no_answer_threshold)

    def _rows(self, examples: Sequence[Example]) -> Encoded:
        return encode_examples(self.task, examples, self.tokenizer, self.length, training=False)

    def _outputs(self, rows: Encoded) -> dict[str, list[np.ndarray]]:
        ask = partial(_answer, self.model, self.task, self.special, self.params)
        size = next((size for size in BATCHES if size >= len(rows.rows)), BATCHES[-1])
        lengths = row_lengths(self.length)
        if len(rows.rows) <= size:  # one batch, for a batch a length would be mostly padding
            longest = max(map(len, rows.rows))
            lengths = (next(length for length in lengths if length >= longest),)
        return answer_rows(ask, rows, self.special, lengths, size, members=False)

    def _example(self, given: Text, where: str) -> Example:
        """One input as an example. Raises UserError for what the task does not take."""
        task = self.task
        is_one = isinstance(given, str) or not isinstance(given, Sequence)
        if task.kind == "tagging":
            return example_of(task, {"raw": given} if is_one else {"text": list(given)}, where, labelled=False)
        takes_pairs = not is_one if task.pair_optional else task.kind == "question_answering" or task.pair is not None
        if is_one == takes_pairs or (takes_pairs and len(given) != 2):
            pair = "a question and its context" if task.kind == "question_answering" else "a pair of texts"
            raise UserError(f"{where} must be {pair if takes_pairs else 'one string'}: that is what {task.name} takes")
        fields = dict(zip(("text", "pair"), given, strict=True)) if takes_pairs else {"text": given}
        return example_of(task, fields, where, labelled=False)

    def _answered(self, found: Any) -> Answered:
        absent = self.task.answerability and found.no_answer_score > self.no_answer_threshold
        text, start, end = ("", 0, 0) if absent else (found.text, found.start, found.end)
        return Answered(text, start, end, found.probability, found.no_answer_score if self.task.answerability else None)


def row_lengths(longest: int) -> tuple[int, ...]:
    """The few lengths that rows are padded to, so that few programs are compiled whatever texts come."""
    return tuple(sorted({min(longest, 8 * -(-longest // (8 * part))) for part in (1, 2, 4, 8)}))


def _classified(labels: Sequence[str], scores: np.ndarray) -> Classified:
    probabilities = {label: float(score) for label, score in zip(labels, scores, strict=True)}
    best = max(probabilities, key=lambda label: probabilities[label])
    return Classified(best, probabilities[best], probabilities)


def _tagged(example: TaggedExample, tags: Sequence[str], probabilities: Sequence[float]) -> Tagged:
    places = example.places or joined_places(example.words)
    found = zip(example.words, places, tags, probabilities, strict=True)
    return Tagged([TaggedWord(word, start, end, tag, chance) for word, (start, end), tag, chance in found])
