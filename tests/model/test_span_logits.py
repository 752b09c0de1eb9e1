"""The best spans of a row, against a search through all of them."""

import jax.numpy as jnp
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import log_softmax
from tiny_models import quick_jit

from electra_jax.model.spans import MASKED, SpanLogits, Spans, best_spans, best_starts

ROWS, LENGTH, BEAM = 2, 12, 4
search = quick_jit(best_spans, static_argnums=(1, 2))


def draw_logits(seed, beam, has_no_answer, share_masked):
    """Random scores, the same share of positions masked for starts and ends, [CLS] never."""
    rng = np.random.default_rng(seed)
    allowed = rng.random((ROWS, LENGTH)) >= share_masked
    allowed[:, 0] = True
    start = np.where(allowed, 3 * rng.standard_normal((ROWS, LENGTH)), MASKED).astype(np.float32)
    starts = np.asarray(best_starts(jnp.asarray(start), beam))
    end = 3 * rng.standard_normal((ROWS, starts.shape[1], LENGTH))
    end = np.where(allowed[:, None], end, MASKED).astype(np.float32)
    no_answer = rng.standard_normal(ROWS).astype(np.float32) if has_no_answer else None
    return SpanLogits(*map(jnp.asarray, (start, starts, end)), None if no_answer is None else jnp.asarray(no_answer))


def by_hand(logits, max_answer_length, row):
    """Every span of a row with its score, best first."""
    start, starts, end = (np.asarray(x[row]) for x in logits[:3])
    found = []
    for at, first in enumerate(starts.tolist()):
        for last in range(LENGTH):
            if first == 0 or not first <= last < first + max_answer_length:
                continue
            if start[first] > MASKED and end[at, last] > MASKED:
                score = log_softmax(start.astype(np.float64))[first] + log_softmax(end[at].astype(np.float64))[last]
                found.append((score, first, last))
    return sorted(found, reverse=True)


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    beam=st.sampled_from([BEAM, LENGTH]),
    max_answer_length=st.sampled_from([1, 3]),
    count=st.sampled_from([3, 30]),
    has_no_answer=st.booleans(),
    share_masked=st.sampled_from([0.0, 0.5, 1.0]),
)
def test_best_spans_are_those_of_a_search_by_hand(seed, beam, max_answer_length, count, has_no_answer, share_masked):
    logits = draw_logits(seed, beam, has_no_answer, share_masked)
    found = Spans(*map(np.asarray, search(logits, max_answer_length, count)))
    assert found.start.shape == found.end.shape == found.score.shape == (ROWS, count)
    for row in range(ROWS):
        expected = by_hand(logits, max_answer_length, row)[:count]
        number = len(expected)
        np.testing.assert_allclose(found.score[row, :number], [score for score, _, _ in expected], atol=1e-4)
        assert (found.score[row, number:] == -np.inf).all()
        spans = list(zip(found.start[row, :number].tolist(), found.end[row, :number].tolist(), strict=True))
        assert spans == [(first, last) for _, first, last in expected]
        if has_no_answer:
            assert found.null[row] == logits.no_answer[row]
        else:
            scores = (logits.start[row], logits.end[row, 0])  # of [CLS], the beam's first
            np.testing.assert_allclose(found.null[row], sum(log_softmax(np.asarray(x))[0] for x in scores), atol=1e-4)


def test_more_spans_than_there_are_pairs():
    logits = draw_logits(0, 1, False, 0.0)
    found = search(logits, LENGTH, 3 * LENGTH)
    assert found.score.shape == (ROWS, 3 * LENGTH)
    assert int((found.score > -jnp.inf).sum()) == sum(len(by_hand(logits, LENGTH, row)) for row in range(ROWS))
    assert (found.start < LENGTH).all()
    assert (found.end < LENGTH).all()


def test_without_cls_among_the_starts_nothing_speaks_for_no_answer():
    logits = draw_logits(0, BEAM, False, 0.0)
    found = search(logits._replace(starts=logits.starts[:, 1:], end=logits.end[:, 1:]), LENGTH, 1)
    assert (found.null == -jnp.inf).all()
    np.testing.assert_allclose(found.score, search(logits, LENGTH, 1).score, rtol=1e-6)
