"""Scores of answer spans on rows `[CLS] question [SEP] context [SEP]`, and the best spans among them.

Rows hold one example each, so that [CLS] is position 0; there questions without an answer point.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from electra_jax.model.inputs import Inputs

# The logit of a position that cannot be an answer: finite, so that no gradient is NaN, and of probability 0.
MASKED = -1e9


class SpanLogits(NamedTuple):
    """What a question-answering head says of a batch of rows, float32; MASKED where no answer can be."""

    start: Float[Array, "b l"]
    starts: Int[Array, "b k"]  # positions for which `end` was scored
    end: Float[Array, "b k l"]  # of each position, given that the answer begins at starts[:, k]
    no_answer: Float[Array, " b"] | None  # log-odds that there is no answer; None for a head that does not ask


class Spans(NamedTuple):
    """Each row's best answers, best first, and what speaks for there being none."""

    start: Int[Array, "b n"]
    end: Int[Array, "b n"]  # the answer's last token
    score: Float[Array, "b n"]  # log-probability; -inf where a row has fewer spans
    null: Float[Array, " b"]  # the head's log-odds of no answer, else the log-probability of the span [CLS] … [CLS]


def can_be_answer(inputs: Inputs) -> Bool[Array, "b l"]:
    """True at [CLS] and at the tokens of the second segment but its closing [SEP].

    The published code leaves that [SEP] in and discards spans that touch it afterwards.
    """
    in_context = inputs.attention_mask & (inputs.token_type_ids == 1)
    goes_on = jnp.pad(in_context[:, 1:], ((0, 0), (0, 1)))
    return (in_context & goes_on).at[:, 0].set(True)


def best_starts(start: Float[Array, "b l"], beam: int) -> Int[Array, "b k"]:
    """[CLS], which `best_spans` may ask about, and then the `beam` likeliest starts, as far as a row has so many."""
    _, found = jax.lax.top_k(start[:, 1:], min(beam, start.shape[1] - 1))
    return jnp.pad(found + 1, ((0, 0), (1, 0)))


def best_spans(logits: SpanLogits, max_answer_length: int, count: int) -> Spans:
    """The `count` best spans of each row that begin at one of `logits.starts`, of at most so many tokens.

    A span's score is log p(start) + log p(end | start), as in the published code, which scores the 20 likeliest ends
    of each start only. Raw logits would not do: the ends' normaliser is another for each start.
    """
    batch, beam, length = logits.end.shape
    start, end = jax.nn.log_softmax(logits.start), jax.nn.log_softmax(logits.end)
    scores = jnp.take_along_axis(start, logits.starts, axis=1)[..., None] + end
    first, last = logits.starts[..., None], jnp.arange(length, dtype=jnp.int32)
    is_span = (first > 0) & (first <= last) & (last < first + max_answer_length)
    is_span &= (jnp.take_along_axis(logits.start, logits.starts, axis=1)[..., None] > MASKED) & (logits.end > MASKED)
    flat = jnp.where(is_span, scores, -jnp.inf).reshape(batch, beam * length)
    flat = jnp.pad(flat, ((0, 0), (0, max(0, count - beam * length))), constant_values=-jnp.inf)
    score, place = jax.lax.top_k(flat, count)
    starts = jnp.take_along_axis(logits.starts, jnp.minimum(place // length, beam - 1), axis=1)
    null = logits.no_answer
    if null is None:
        null = start[:, 0] + jnp.where(logits.starts == 0, end[:, :, 0], -jnp.inf).max(axis=1)
    return Spans(starts, place % length, score, null)
