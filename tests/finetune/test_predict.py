"""What a fine-tuned model answers: typed, in order, whatever is asked beside it, with places in the text."""

import itertools
import math
import random
import unicodedata
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from scipy.special import softmax

from electra_jax.errors import UserError
from electra_jax.finetune import finetuned
from electra_jax.finetune.answers import Answered, Classified, Scored, Tagged
from electra_jax.finetune.finetuned import FineTuned, row_lengths
from electra_jax.finetune.loading import task_of
from electra_jax.networks import TaskConfig
from electra_jax.tasks.task import Task
from electra_jax.tasks.words import split_at_spaces, split_words
from tests.finetune.tiny_tasks import WORDS, task, texts, tiny_model

LABELS = ("bad", "fair", "good")
TAGS = ("O", "B-PER", "I-PER")
CLASSES, PAIRS = task("classification", labels=LABELS), task("classification", labels=LABELS, pair="pair")
SCORES = task("regression", low=-5.0, high=5.0)
TAGGING = task("tagging", labels=TAGS, scheme="iob2")
QUESTIONS, MAYBE = task("question_answering"), task("question_answering", answerability=True)
asked = texts.map(lambda text: text.replace("\0", "")).filter(str.strip)


@cache
def model_of(asked: Task) -> FineTuned:
    """One program and one set of weights for all tests."""
    if asked.kind == "question_answering":
        return tiny_model(asked, length=48)
    return tiny_model(asked, length=512, form="huggingface")


def sentences(count: int, longest: int, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(WORDS, k=draw.randint(1, longest))) for _ in range(count)]


def probabilities(found: list[Any]) -> np.ndarray:
    return np.array([list(answer.probabilities.values()) for answer in found])


def test_a_handful_of_shapes_is_compiled() -> None:
    before = finetuned._answer._cache_size()  # type: ignore[attr-defined]
    found = model_of(CLASSES).predict(sentences(200, 400))
    again = model_of(CLASSES).predict(sentences(200, 400, seed=1))
    assert len(found) == len(again) == 200
    assert finetuned._answer._cache_size() - before <= 4  # type: ignore[attr-defined]
    assert row_lengths(512) == (64, 128, 256, 512)


def test_short_texts_are_not_padded_to_the_longest_row() -> None:
    """The tags of a row's tokens have its length."""
    examples = [model_of(TAGGING)._example(text, "here") for text in ("one word", "and more")]
    rows = model_of(TAGGING)._rows(examples)
    assert {len(tags) for tags in model_of(TAGGING)._outputs(rows)["tag"]} == {64}


def test_answers_do_not_depend_on_what_is_asked_beside_them() -> None:
    several = sentences(70, 200)  # more than one batch, of several lengths
    together = probabilities(model_of(CLASSES).predict(several))
    assert together.std(axis=0).min() > 1e-3
    some = range(0, 70, 7)
    alone = probabilities([model_of(CLASSES).predict(several[number])[0] for number in some])
    np.testing.assert_allclose(together[list(some)], alone, atol=1e-5)
    backwards = probabilities(model_of(CLASSES).predict(several[::-1]))
    np.testing.assert_allclose(backwards[::-1], together, atol=1e-5)


def test_probabilities_are_the_head_s() -> None:
    several = sentences(5, 20)
    found = model_of(CLASSES).predict(several)
    expected = softmax(np.array(model_of(CLASSES).task_logits(several)), axis=-1)
    np.testing.assert_allclose(probabilities(found), expected, atol=1e-5)
    for answer, row in zip(found, expected, strict=True):
        assert isinstance(answer, Classified)
        assert tuple(answer.probabilities) == LABELS
        assert answer.label == LABELS[row.argmax()]
        assert answer.probability == max(answer.probabilities.values())


def test_scores_are_on_the_task_s_own_scale() -> None:
    several = sentences(4, 20)
    found = model_of(SCORES).predict(several)
    assert all(isinstance(answer, Scored) for answer in found)
    expected = -5 + 10 * np.array(model_of(SCORES).task_logits(several))[:, 0]
    np.testing.assert_allclose([answer.score for answer in found], expected, atol=1e-4)  # type: ignore[union-attr]


def test_the_order_within_a_pair_counts() -> None:
    one, other = model_of(PAIRS).predict([("the value", "it's a list"), ("it's a list", "the value")])
    assert abs(probabilities([one]) - probabilities([other])).max() > 1e-4


def test_a_generator_of_texts_and_none_at_all() -> None:
    assert model_of(CLASSES).predict(iter(())) == []
    found = model_of(CLASSES).predict(text for text in ("日本語 😀", "a" * 5000, "word " * 5000))
    assert len(found) == 3


@pytest.mark.parametrize(
    ("kind", "given", "sentence"),
    [
        (CLASSES, ["good", " "], "text 2: the text is empty"),
        (CLASSES, [""], "text 1: the text is empty"),
        (CLASSES, [("one", "two")], "text 1 must be one string: that is what tiny takes"),
        (CLASSES, ["a\ud800"], "text 1: the text holds a NUL or half of a surrogate pair"),
        (PAIRS, ["alone"], "text 1 must be a pair of texts"),
        (PAIRS, [("one", "two", "three")], "text 1 must be a pair of texts"),
        (PAIRS, [("one", "")], "text 1: the second text is empty"),
        (TAGGING, [["one", " "]], "text 1: one of the words is empty"),
        (TAGGING, [[]], "text 1: the words are empty"),
        (TAGGING, ["\u200b"], "text 1: the text .* holds no word"),
        (QUESTIONS, ["what?"], "text 1 must be a question and its context"),
        (QUESTIONS, [("what?", "")], "text 1: the context is empty"),
    ],
)
def test_what_is_no_input_is_refused(kind: Task, given: list[Any], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence):
        model_of(kind).predict(given)


@given(context=asked, question=asked)
@settings(max_examples=25, deadline=None)
def test_an_answer_stands_in_its_context(context: str, question: str) -> None:
    for kind in (QUESTIONS, MAYBE):
        (found,) = model_of(kind).predict([(question, context)])
        assert isinstance(found, Answered)
        assert context[found.start : found.end] == found.text
        assert 0 < found.probability <= 1
        assert (found.no_answer_score is None) == (kind is QUESTIONS)


def test_a_context_of_many_rows_is_read_to_its_end() -> None:
    """The answer is the best one over all windows: moving its part within the context does not change it."""
    filler = "the value of an expression " * 60
    asked = [("what is it?", f"{filler}it's (list's) 1895-1943 é {filler}")] * 2
    first, second = model_of(QUESTIONS).predict(asked)
    assert first == second
    starts = set()
    for seed in range(12):
        (context,) = sentences(1, 400, seed)
        (found,) = model_of(QUESTIONS).predict([("what is returned?", context)])
        assert isinstance(found, Answered)
        assert context[found.start : found.end] == found.text != ""
        starts.add(found.start // 100)
    assert max(starts) > 3  # far beyond the first row


@given(texts)
def test_words_are_all_there_is_but_spaces_and_control_characters(text: str) -> None:
    places = split_words(text)
    assert places == sorted(places)
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(places))
    inside = {at for start, end in places for at in range(start, end)}
    for at, character in enumerate(text):
        if at not in inside:
            assert unicodedata.category(character)[0] in "ZC"
        else:
            assert not character.isspace()
    assert [text[start:end] for start, end in split_at_spaces(text)] == text.split()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Angela Merkel's visit, on 3.10.2003.", ["Angela", "Merkel's", "visit", ",", "on", "3.10.2003", "."]),
        ("It cost 1,000,000 (or more), state-of-the-art!", None),
        ("हिन्दी में लिखा", ["हिन्दी", "में", "लिखा"]),
        ("Zoe\u0308 — naïve", ["Zoe\u0308", "—", "naïve"]),
    ],
)
def test_words_as_people_read_them(text: str, words: list[str] | None) -> None:
    words = words or ["It", "cost", "1,000,000", "(", "or", "more", ")", ",", "state-of-the-art", "!"]
    assert [text[start:end] for start, end in split_words(text)] == words


def test_every_word_has_a_tag() -> None:
    long_word, long_text = "ab" * 2000, " ".join(sentences(1, 30) * 60)
    given: list[Any] = ["Mr. Bean's here.", ["New York", "is", "big"], f"a {long_word} b", long_text, "日本 é \u00ad x"]
    found = model_of(TAGGING).predict(given)
    for text, answer in zip(given, found, strict=True):
        assert isinstance(answer, Tagged)
        text = text if isinstance(text, str) else " ".join(text)
        assert all(text[word.start : word.end] == word.text for word in answer.words)
        assert all(word.tag in TAGS and 1 / 3 <= word.probability <= 1 for word in answer.words)
    assert [word.text for word in found[0].words] == ["Mr", ".", "Bean's", "here", "."]  # type: ignore[union-attr]
    assert [word.text for word in found[1].words] == ["New York", "is", "big"]  # type: ignore[union-attr]
    assert len(found[3].words) == len(split_words(long_text)) > 512  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("head", "kind", "metrics"),
    [
        (TaskConfig(name="sequence_classification", labels=("a", "b")), "classification", ("accuracy",)),
        (TaskConfig(name="sequence_classification", labels=("LABEL_0",)), "regression", ("pearson",)),
        (TaskConfig(name="token_classification", labels=("O", "NN")), "tagging", ("accuracy",)),
        (TaskConfig(name="token_classification", labels=("O", "I-X")), "tagging", None),
        (TaskConfig(name="question_answering", labels=("start", "end")), "question_answering", ("f1",)),
    ],
)
def test_the_task_of_a_head_from_elsewhere(head: TaskConfig, kind: str, metrics: tuple[str, ...] | None) -> None:
    found = task_of(head)
    assert found is not None
    assert (found.kind, found.metrics) == (kind, metrics or ("f1", "precision", "recall", "accuracy"))


@pytest.mark.parametrize(
    "changes",
    [
        {"labels": ("a", "b"), "problem_type": "multi_label_classification"},
        {"labels": ("a", "b"), "problem_type": "regression"},
        {"labels": ("a", "a")},
    ],
)
def test_a_head_whose_answers_have_no_type_here(changes: dict[str, Any]) -> None:
    assert task_of(TaskConfig(name="sequence_classification", **changes)) is None


def test_no_figure_is_nan() -> None:
    """The shortest context that there is leaves one span at most."""
    for found in model_of(QUESTIONS).predict([("a", "b"), ("a", "\u200b"), ("a " * 300, "b")]):
        assert isinstance(found, Answered)
        assert math.isfinite(found.probability)
