import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from electra_jax.finetune.encoding import Encoded, Window, encode_examples
from electra_jax.finetune.spans import answer_questions
from electra_jax.tasks.examples import Answer
from tests.finetune.tiny_tasks import TOKENIZERS, question, task, texts, tokenizer_of

CONTEXT = "the cat sat on the red mat"
SPANS = np.array([(0, 3), (4, 7), (8, 11), (12, 14), (15, 18), (19, 22), (23, 26)], np.int32)
ASKED = question(CONTEXT)


def two_windows() -> Encoded:
    """Words 0 to 4 and 3 to 6 behind [CLS] who [SEP]; "on" is best in the first one, "the" in the second."""
    best = np.array([True, True, True, True, False])
    windows = [Window(3, SPANS[:5], best), Window(3, SPANS[3:], np.array([False, True, True, True]))]
    return Encoded([[1, 9, 2, *range(10, 15), 2], [1, 9, 2, *range(13, 17), 2]], {}, [0, 0], (), windows)


def answer(spans: list[list[tuple[int, int, float]]], null: list[float], asked=ASKED, encoded=None, **settings: int):
    """The prediction from each row's spans (start, end, score)."""
    start, end, score = (np.array(values) for values in zip(*(zip(*row, strict=True) for row in spans), strict=True))
    found = answer_questions(
        [asked], encoded or two_windows(), start, end, score.astype(np.float32), np.array(null, np.float32), **settings
    )
    assert len(found) == 1
    return found[0]


def test_the_best_span_of_all_windows_wins() -> None:
    found = answer([[(4, 5, 1.0), (3, 3, 0.5)], [(5, 6, 2.0), (6, 6, 0.0)]], [0.25, -1.0])
    assert (found.id, found.text, found.start, found.end) == ("q", "red mat", 19, 26)
    assert (found.score, found.null_score, found.no_answer_score) == (2.0, -1.0, -3.0)
    scores = np.exp([2.0, 1.0, 0.5, 0.0])
    assert found.probability == pytest.approx(scores[0] / scores.sum())


@pytest.mark.parametrize(
    "span",
    [
        (0, 0),  # [CLS]
        (1, 4),  # begins in the question
        (6, 8),  # ends in [SEP]
        (5, 4),  # ends before it begins
        (5, 0),
        (7, 7),  # has more context in the second window
        (3, 6),  # is too long
        (3, 60),
    ],
)
def test_a_span_that_is_no_answer_is_passed_over(span: tuple[int, int]) -> None:
    found = answer([[(*span, 9.0), (4, 4, 1.0)], [(5, 5, 0.0), (0, 0, 0.0)]], [0.0, 0.0], max_answer=3)
    assert found.text == "cat"
    assert found.probability == pytest.approx(np.e / (np.e + 1))


def test_a_text_counts_once_with_its_best_score() -> None:
    # Both say "the", the first and the fifth word.
    found = answer([[(3, 3, 1.0), (4, 4, 0.0)], [(4, 4, 2.0), (6, 6, -1.0)]], [0.0, 0.0])
    assert (found.text, found.start, found.score) == ("the", 15, 2.0)
    scores = np.exp([2.0, 0.0, -1.0])
    assert found.probability == pytest.approx(scores[0] / scores.sum())
    best = answer([[(3, 3, 1.0), (4, 4, 0.0)], [(4, 4, 2.0), (6, 6, -1.0)]], [0.0, 0.0], n_best=2)
    assert best.probability == pytest.approx(scores[0] / scores[:2].sum())


def test_there_is_always_an_answer() -> None:
    # Only a span that has more context elsewhere, and then none at all in the context.
    assert answer([[(7, 7, 3.0), (0, 0, 9.0)], [(0, 0, 9.0), (1, 1, 9.0)]], [0.0, 0.0])[1:5] == ("the", 15, 18, 3.0)
    found = answer([[(0, 0, 9.0), (0, 1, 7.0)], [(0, 0, 9.0), (1, 1, 8.0)]], [0.0, 0.0])
    assert found[1:5] == ("the", 0, 3, 7.0)
    assert found.probability == 1.0
    empty = encode_examples(
        task("question_answering"), [question("\u200b")], tokenizer_of("wordpiece"), 16, training=False
    )
    found = answer([[(0, 0, 1.0)]], [4.0], question("\u200b"), empty)
    assert (found.text, found.start, found.end, found.no_answer_score) == ("", 0, 0, 3.0)


def test_questions_keep_apart_and_in_order() -> None:
    whole = Window(3, SPANS, np.ones(7, bool))
    encoded = Encoded([[1, 9, 2, *range(10, 17), 2]] * 3, {}, [0, 1, 2], (), [whole] * 3)
    examples = [question(CONTEXT)._replace(id=name) for name in "abc"]
    start = np.array([[4], [8], [9]])
    found = answer_questions(examples, encoded, start, start, np.zeros((3, 1)), np.arange(3.0))
    assert [(one.id, one.text, one.null_score) for one in found] == [
        ("a", "cat", 0.0),
        ("b", "red", 1.0),
        ("c", "mat", 2.0),
    ]


@pytest.mark.parametrize("kind", TOKENIZERS)
@settings(deadline=None)
@given(st.data(), texts, st.integers(12, 64))
def test_gold_positions_give_the_answer(kind: str, data: st.DataObject, context: str, length: int) -> None:
    """What a perfect model says of an encoded question is the gold answer's own text."""
    tokenizer = tokenizer_of(kind)
    borders = [(start, end) for start, end in tokenizer.encode(context).offsets if start < end]
    assume(borders)
    first = data.draw(st.integers(0, len(borders) - 1))
    last = data.draw(st.integers(first, min(first + 2, len(borders) - 1)))
    gold = context[borders[first][0] : borders[last][1]]
    asked = question(context, Answer(gold, borders[first][0]), text="what?")
    encoded = encode_examples(task("question_answering"), [asked], tokenizer, length, training=False)
    start, end, no_answer = (np.array(encoded.targets[name]) for name in ("start", "end", "no_answer"))
    assume((no_answer == 0).any())
    assume(gold.strip())
    found = answer_questions([asked], encoded, start[:, None], end[:, None], 1 - no_answer[:, None], no_answer)
    assert found[0].text == gold
    assert found[0].start == borders[first][0]
