"""Exact match and F1 of SQuAD as tables of its definition; the threshold against trying them all."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from electra_jax.errors import UserError
from electra_jax.tasks.examples import Answer, QuestionExample
from electra_jax.tasks.squad_metrics import best_threshold, gold_answers, normalise, squad_metrics, token_f1

words = st.sampled_from(["red", "blue", "red car", "The blue car.", "a car", "é"])
predicted = st.one_of(words, st.just(""))


def question(name: str, *answers: str, impossible: bool = False) -> QuestionExample:
    return QuestionExample(name, "?", "", tuple(Answer(text, 0) for text in answers), impossible, f"dev.json, {name}")


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("The Cat", "cat"),
        ("a cat, an owl and the dog", "cat owl and dog"),
        ("  cat \t\n dog ", "cat dog"),
        ("cat\u00a0dog\u3000owl", "cat dog owl"),  # other white space
        ("theatre another area", "theatre another area"),  # not articles
        ("the-cat", "thecat"),  # punctuation goes first, so this is no article any more
        ("U.S.A.", "usa"),
        ("$1,000.50", "100050"),
        ("O'Neill's", "oneills"),
        ("«Été» – 10€", "«été» – 10€"),  # punctuation is ASCII's
        ("ÜBER Straße ΣΊΣΥΦΟΣ", "über straße σίσυφος"),
        ("东京 the 塔", "东京 塔"),
        ("ａ cat", "ａ cat"),  # a full-width letter is not the article
        ("The", ""),
        ("an a THE", ""),
        ("?!...", ""),
        ("The.", ""),
        ("", ""),
    ],
)
def test_normalisation(text, want):
    assert normalise(text) == want


@settings(deadline=None)
@given(st.text())
def test_normalising_leaves_single_spaces_and_no_punctuation(text):
    once = normalise(text)
    assert once == once.strip()
    assert "  " not in once
    assert not set(once) & set(",.!?'\"-()[]{}")


@pytest.mark.parametrize(
    ("answer", "gold", "want"),
    [
        ("cat", "cat", 1.0),
        ("cat", "dog", 0.0),
        ("big cat", "cat", 2 * 0.5 * 1 / 1.5),
        ("cat", "big black cat", 2 * 1 * (1 / 3) / (4 / 3)),
        ("cat cat", "cat", 2 / 3),  # a word counts as often as both have it
        ("cat cat dog", "cat dog cat owl", 6 / 7),
        ("dog cat", "cat dog", 1.0),  # in any order
        ("", "", 1.0),
        ("", "cat", 0.0),
        ("cat", "", 0.0),
    ],
)
def test_f1_of_words(answer, gold, want):
    assert token_f1(answer, gold) == pytest.approx(want)
    assert token_f1(gold, answer) == pytest.approx(want)


@pytest.mark.parametrize(
    ("asked", "want"),
    [
        (question("q", "The cat", "cat!", "dog"), ["cat", "dog"]),
        (question("q", "the", "cat"), ["cat"]),  # what is nothing when normalised is no answer beside others
        (question("q", "The", "?!"), [""]),
        (question("q", impossible=True), [""]),
        (question("q", "plausible", impossible=True), [""]),
    ],
)
def test_gold_answers(asked, want):
    assert gold_answers(asked) == want


@pytest.mark.parametrize(
    ("answers", "prediction", "exact", "f1"),
    [
        (("The cat",), "cat.", 1, 1),
        (("the cat",), "THE  CAT!", 1, 1),
        (("cat",), "black cat", 0, 2 / 3),
        (("dog", "black cat", "cat"), "black cat", 1, 1),  # the best of several
        (("dog", "big black cat"), "black cat", 0, 4 / 5),
        (("dog house", "black cat"), "black dog house cat", 0, 2 / 3),  # the best of them, not all together
        (("cat",), "", 0, 0),
        (("cat",), "the", 0, 0),
        (("The",), "an", 1, 1),  # nothing but articles
        (("The",), "", 1, 1),
        (("...",), "cat", 0, 0),
        (("Łódź",), "łódź", 1, 1),
        (("naïve",), "naive", 0, 0),  # accents count
    ],
)
def test_an_answer_against_its_gold_answers(answers, prediction, exact, f1):
    got = squad_metrics({"q": prediction}, [question("q", *answers)])
    assert got == {"exact_match": exact, "f1": pytest.approx(f1), "n": 1.0}
    assert all(type(value) is float for value in got.values())


MIXED = [
    question("right", "red"),
    question("part", "red car"),
    question("missed", "blue"),
    question("none", impossible=True),
    question("invented", impossible=True),
]
ANSWERS = {"right": "red", "part": "car", "missed": "", "none": "", "invented": "green"}


def test_questions_with_and_without_answers_by_hand():
    got = squad_metrics(ANSWERS, MIXED)
    assert got == pytest.approx(
        {
            "exact_match": 2 / 5,
            "f1": (1 + 2 / 3 + 1) / 5,
            "has_answer_exact_match": 1 / 3,
            "has_answer_f1": (1 + 2 / 3) / 3,
            "no_answer_accuracy": 1 / 2,
            "n": 5,
        }
    )
    assert squad_metrics(ANSWERS, MIXED[::-1]) == pytest.approx(got)


def test_the_best_threshold_by_hand():
    scores = {"right": 1.0, "part": 2.0, "missed": 9.0, "none": 5.0, "invented": 3.0}
    got = squad_metrics(ANSWERS, MIXED, scores)
    # Up to 1: right answered, and the two impossible ones not. Up to 2: the part of an answer as well.
    assert got["best_exact_match"] == pytest.approx(3 / 5)
    assert got["best_exact_match_threshold"] == 1.0
    assert got["best_f1"] == pytest.approx((3 + 2 / 3) / 5)
    assert got["best_f1_threshold"] == 2.0
    without = {name: value for name, value in got.items() if not name.startswith("best")}
    assert without == squad_metrics(ANSWERS, MIXED)


def test_questions_above_the_threshold_are_not_answered():
    scores = {"right": 1.0, "part": 2.0, "missed": 9.0, "none": 5.0, "invented": 3.0}
    got = squad_metrics(ANSWERS, MIXED, scores, threshold=1.0)
    assert got["exact_match"] == got["f1"] == pytest.approx(3 / 5)
    assert got["has_answer_f1"] == pytest.approx(1 / 3)
    assert got["no_answer_accuracy"] == 1.0
    assert got["best_f1"] == squad_metrics(ANSWERS, MIXED, scores)["best_f1"]


def test_questions_that_are_all_impossible():
    got = squad_metrics({"q": "the"}, [question("q", impossible=True)], {"q": 0.0})
    assert got["exact_match"] == got["f1"] == got["no_answer_accuracy"] == 1.0
    assert "has_answer_f1" not in got


def test_what_is_missing_is_named():
    with pytest.raises(UserError, match=r"no prediction for question 'part' \(dev\.json, part\)"):
        squad_metrics({"right": "red"}, MIXED)
    with pytest.raises(UserError, match=r"no no-answer score for question 'right'"):
        squad_metrics(ANSWERS, MIXED, {})
    with pytest.raises(UserError, match=r"dev\.json, q: question 'q' has no answer and is not marked"):
        squad_metrics({"q": "red"}, [question("q")])


def test_predictions_for_other_questions_do_not_count():
    assert squad_metrics(ANSWERS | {"other": "x"}, MIXED) == squad_metrics(ANSWERS, MIXED)


def test_scores_of_a_member_that_diverged_are_no_error():
    got = squad_metrics(ANSWERS, MIXED, dict.fromkeys(ANSWERS, math.nan))
    assert got["f1"] == squad_metrics(ANSWERS, MIXED)["f1"]


@settings(deadline=None)
@given(st.lists(st.tuples(st.lists(words, max_size=3), predicted, st.integers(-3, 3)), min_size=1), st.randoms())
def test_the_best_is_what_the_best_threshold_gives(rows, random):
    asked = [question(str(at), *answers, impossible=not answers) for at, (answers, _, _) in enumerate(rows)]
    predictions = {str(at): prediction for at, (_, prediction, _) in enumerate(rows)}
    scores = {str(at): float(score) for at, (_, _, score) in enumerate(rows)}
    got = squad_metrics(predictions, asked, scores)
    assert all(0 <= value <= 1 for name, value in got.items() if name != "n" and not name.endswith("threshold"))
    assert got["exact_match"] <= got["f1"]
    for name in ("exact_match", "f1"):
        # By taking answers away, not by the function's own threshold.
        tried = [
            squad_metrics({key: text if scores[key] <= t else "" for key, text in predictions.items()}, asked)[name]
            for t in range(-4, 4)
        ]
        assert got[f"best_{name}"] == pytest.approx(max(tried))
        at_best = squad_metrics(predictions, asked, scores, got[f"best_{name}_threshold"])
        assert at_best[name] == pytest.approx(got[f"best_{name}"])
    random.shuffle(asked)
    assert squad_metrics(predictions, asked, scores) == pytest.approx(got)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(-5, 5), st.integers(0, 8), st.booleans()), min_size=1))
def test_the_threshold_against_trying_every_one(rows):
    scores, eighths, impossible = (np.array(column) for column in zip(*rows, strict=True))
    scores, answered, unanswered = scores / 2, eighths / 8, impossible.astype(float)  # sums are exact
    means = {t: np.where(scores <= t, answered, unanswered).mean() for t in [scores.min() - 1, *sorted(set(scores))]}
    best, threshold = best_threshold(scores, answered, unanswered)
    assert best == pytest.approx(max(means.values()))
    assert threshold == next(t for t, mean in means.items() if mean == max(means.values()))


def test_where_answering_nothing_is_best_the_threshold_is_below_every_score():
    best, threshold = best_threshold(np.array([-7.0, -3.0]), np.zeros(2), np.ones(2))
    assert best == 1.0
    assert threshold < -7.0


def test_equal_scores_are_not_parted():
    # Answering the first alone would give 1, but no threshold does that.
    assert best_threshold(np.array([0.0, 0.0]), np.array([1.0, 0.0]), np.array([0.0, 1.0]))[0] == 0.5


def test_the_gold_answers_of_squad_score_1(shared_data):
    data = json.loads((shared_data / "tasks" / "squad" / "dev-v2.0.json").read_text(encoding="utf-8"))["data"]
    raw = [one for article in data for paragraph in article["paragraphs"] for one in paragraph["qas"]]
    asked = [
        question(one["id"], *(answer["text"] for answer in one["answers"]), impossible=one["is_impossible"])
        for one in raw
    ]
    # The first: a few of the others are a full stop only, which is no answer.
    best = {one.id: one.answers[0].text if one.answers else "" for one in asked}
    got = squad_metrics(best, asked, {one.id: float(one.is_impossible) for one in asked})
    assert got.pop("n") == len(raw)
    assert got.pop("best_f1_threshold") == got.pop("best_exact_match_threshold") == 0.0
    assert set(got.values()) == {1.0}
    # Answering nothing is right where there is no answer.
    share = sum(one.is_impossible for one in asked) / len(asked)
    assert squad_metrics(dict.fromkeys(best, ""), asked)["f1"] == pytest.approx(share)
