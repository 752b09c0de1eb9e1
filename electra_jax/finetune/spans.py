"""From the best spans of each row to one answer a question, in the characters of its context."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from electra_jax.finetune.encoding import Encoded, Window
from electra_jax.tasks.examples import QuestionExample


class Prediction(NamedTuple):
    """An answer: context[start:end]. Empty only where the context has no token.

    `probability` is its share among the best different answers; `no_answer_score` = null_score - score says, above
    a threshold, that there is no answer (SQuAD 2.0).
    """

    id: str
    text: str
    start: int
    end: int
    score: float
    null_score: float
    no_answer_score: float
    probability: float


class _Span(NamedTuple):
    start: int
    end: int
    score: float


def answer_questions(
    examples: Sequence[QuestionExample],
    encoded: Encoded,
    start: Int[np.ndarray, "n k"],
    end: Int[np.ndarray, "n k"],
    score: Float[np.ndarray, "n k"],
    null: Float[np.ndarray, " n"],
    *,
    n_best: int = 20,
    max_answer: int = 30,
) -> list[Prediction]:
    """The answer to each example, from `k` spans (first and last token) of each of its rows and their scores.

    As the published code: only spans of at most `max_answer` tokens that lie in the context and begin in their
    token's best window; of the `n_best` different texts over all windows the best one, and the least null score.
    Where there is none, any span in the context, else its first token, with the rows' lowest score.
    """
    rows_of: list[list[int]] = [[] for _ in examples]
    for row, owner in enumerate(encoded.owners):
        rows_of[owner].append(row)
    found = []
    for example, rows in zip(examples, rows_of, strict=True):
        spans = [
            (is_best, span)
            for row in rows
            for is_best, span in _inside(encoded.windows[row], start[row], end[row], score[row], max_answer)
        ]
        allowed = [span for is_best, span in spans if is_best] or [span for _, span in spans]
        best = _best(example.context, allowed, n_best)
        null_score = float(null[rows].min())
        if not best:
            there = score[rows][np.isfinite(score[rows])]
            lowest = float(there.min()) if len(there) else null_score
            best = [_first_token([encoded.windows[row] for row in rows], lowest)]
        scores = np.array([span.score for span in best])
        found.append(
            Prediction(
                id=example.id,
                text=example.context[best[0].start : best[0].end],
                start=best[0].start,
                end=best[0].end,
                score=best[0].score,
                null_score=null_score,
                no_answer_score=null_score - best[0].score,
                probability=float(1 / np.exp(scores - scores[0]).sum()),
            )
        )
    return found


def _inside(
    window: Window,
    start: Int[np.ndarray, " k"],
    end: Int[np.ndarray, " k"],
    score: Float[np.ndarray, " k"],
    max_answer: int,
) -> Iterator[tuple[bool, _Span]]:
    """The spans of a row that lie in its part of the context, in characters, and whether they begin at their best."""
    first, last = start - window.at, end - window.at
    kept = (
        (first >= 0) & (first <= last) & (last < len(window.spans)) & (last - first < max_answer) & np.isfinite(score)
    )
    first, last = first[kept], last[kept]
    characters = (window.spans[first, 0], window.spans[last, 1], score[kept].astype(np.float64))
    spans = map(_Span, *(values.tolist() for values in characters))
    return zip(window.is_best[first].tolist(), spans, strict=True)


def _best(context: str, spans: list[_Span], count: int) -> list[_Span]:
    """The best spans of different texts, best first; the first one of equals."""
    found: dict[str, _Span] = {}
    for span in sorted(spans, key=lambda span: -span.score):
        text = context[span.start : span.end]
        if len(found) < count and text.strip():
            found.setdefault(text, span)
    return list(found.values())


def _first_token(windows: list[Window], score: float) -> _Span:
    spans = np.concatenate([window.spans for window in windows])
    spans = spans[spans[:, 0] < spans[:, 1]]
    start, end = spans[0].tolist() if len(spans) else (0, 0)
    return _Span(start, end, score)
