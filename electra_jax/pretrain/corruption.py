"""Which tokens are corrupted and by what (paper, section 3.1): pure functions of one key for each row."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from electra_jax.config import ObjectiveConfig, SpecialTokens, num_slots
from electra_jax.model.inputs import Inputs, can_be_masked

SAMPLING_BLOCK = 256  # tokens


class RowKeys(NamedTuple):
    """One key a row for each use of randomness in a step."""

    choose: Key[Array, " b"]
    mask: Key[Array, " b"]
    sample: Key[Array, " b"]
    generator_dropout: Key[Array, " b"]
    discriminator_dropout: Key[Array, " b"]


class Masking(NamedTuple):
    """The chosen positions of each row. A row that needs fewer slots than there are leaves the last ones unused.

    Used slots share a place only where positions are drawn with replacement; each of them is predicted.
    """

    ids: Int[Array, "b l"]  # with [MASK] written in
    slots: Int[Array, "b s"]  # positions
    slot_mask: Bool[Array, "b s"]  # True where the slot is used; a used one never holds a special token
    labels: Int[Array, "b s"]  # the original tokens


def create_row_keys(keys: Key[Array, " b"]) -> RowKeys:
    """Derives the keys of every use from one key a row."""
    return RowKeys(*jax.vmap(lambda key: jax.random.split(key, len(RowKeys._fields)), out_axes=1)(keys))


def count_slots(inputs: Inputs, objective: ObjectiveConfig, special: SpecialTokens) -> Int[Array, " b"]:
    """Used slots a row: max(1, min(N, round(mask_prob · real tokens))), as far as there are tokens to choose.

    With replacement one such token is enough. No draw enters, so the MLM loss's denominator is known before any
    forward pass.
    """
    real = inputs.attention_mask.sum(axis=1)
    wanted = jnp.round(real * objective.mask_prob).astype(jnp.int32)
    wanted = jnp.clip(wanted, 1, num_slots(objective, inputs.ids.shape[1]))
    candidates = can_be_masked(inputs, special).sum(axis=1)
    if objective.masked_positions == "with_replacement":
        return jnp.where(candidates > 0, wanted, 0)
    return jnp.minimum(wanted, candidates)


def choose_and_mask(inputs: Inputs, keys: RowKeys, objective: ObjectiveConfig, special: SpecialTokens) -> Masking:
    """Draws positions uniformly and writes [MASK] into 85% of the slots' places (`mask_token_prob`).

    A place drawn twice becomes [MASK] if either draw says so.
    """
    draw = DRAW_POSITIONS[objective.masked_positions]
    size = min(num_slots(objective, inputs.ids.shape[1]), inputs.ids.shape[1])
    slots = draw(can_be_masked(inputs, special), keys.choose, size)
    slot_mask = jnp.arange(size) < count_slots(inputs, objective, special)[:, None]
    coin = jax.vmap(lambda key: jax.random.bernoulli(key, objective.mask_token_prob, (size,)))(keys.mask)
    return Masking(
        ids=write(inputs.ids, slots, jnp.full_like(slots, special.mask), slot_mask & coin),
        slots=slots,
        slot_mask=slot_mask,
        labels=jnp.take_along_axis(inputs.ids, slots, axis=1),
    )


def draw_unique(candidates: Bool[Array, "b l"], keys: Key[Array, " b"], size: int) -> Int[Array, "b s"]:
    """Distinct positions, uniform among a row's candidates as long as these last and other positions after that."""
    score = jax.vmap(lambda key: jax.random.uniform(key, candidates.shape[1:]))(keys)
    return jax.lax.top_k(jnp.where(candidates, score, -1.0), size)[1]


def draw_with_replacement(candidates: Bool[Array, "b l"], keys: Key[Array, " b"], size: int) -> Int[Array, "b s"]:
    """Positions drawn independently of each other, each uniform among a row's candidates (published code)."""
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (size,)))(keys)
    running = jnp.cumsum(candidates, axis=1, dtype=jnp.float32)
    slots = invert(jnp.broadcast_to(running[:, None], (*uniform.shape, running.shape[1])), uniform)
    # In a row without a candidate, where no slot is used, the draw would lie past the row's end.
    return jnp.minimum(slots, running.shape[1] - 1)


DRAW_POSITIONS = {"unique": draw_unique, "with_replacement": draw_with_replacement}


def sample(logits: Float[Array, "b s v"], keys: Key[Array, " b"], objective: ObjectiveConfig) -> Int[Array, "b s"]:
    """Draws a token for each slot from softmax(logits / temperature), in float32, without a gradient.

    In bfloat16 the largest noise values collide and the draws are badly biased, so the cast stands here. The draw is
    made in two steps, a block of tokens by its log-sum-exp and then a token of the block: the same distribution as
    noise over the whole vocabulary, for a hundredth of the random numbers.
    """
    logits = jax.lax.stop_gradient(logits).astype(jnp.float32) / objective.temperature
    pad = [(0, 0), (0, 0), (0, -logits.shape[-1] % SAMPLING_BLOCK)]
    blocks = jnp.pad(logits, pad, constant_values=-jnp.inf).reshape(*logits.shape[:2], -1, SAMPLING_BLOCK)
    block_keys, token_keys = jax.vmap(jax.random.split, out_axes=1)(keys)
    draw = SAMPLERS[objective.sampler]
    block = draw(jax.nn.logsumexp(blocks, axis=-1), block_keys)
    within = jnp.take_along_axis(blocks, block[..., None, None], axis=2)[:, :, 0]
    return block * SAMPLING_BLOCK + draw(within, token_keys)


def gumbel_max(scores: Float[Array, "b s n"], keys: Key[Array, " b"]) -> Int[Array, "b s"]:
    """Draws from softmax(scores): the largest score once Gumbel noise is added."""
    noise = jax.vmap(lambda key: jax.random.gumbel(key, scores.shape[1:], jnp.float32))(keys)
    return jnp.argmax(scores + noise, axis=-1).astype(jnp.int32)


def inverse_cdf(scores: Float[Array, "b s n"], keys: Key[Array, " b"]) -> Int[Array, "b s"]:
    """Draws from softmax(scores) with one uniform number for each draw."""
    cumulative = jnp.cumsum(jnp.exp(scores - scores.max(axis=-1, keepdims=True)), axis=-1)
    uniform = jax.vmap(lambda key: jax.random.uniform(key, scores.shape[1:2]))(keys)
    return invert(cumulative, uniform)


SAMPLERS = {"gumbel": gumbel_max, "inverse_cdf": inverse_cdf}


def sample_unigram(cumulative: Float[Array, " v"], keys: Key[Array, " b"], size: int) -> Int[Array, "b s"]:
    """Draws `size` tokens a row from the corpus' unigram distribution, given as its running sum."""
    uniform = jax.vmap(lambda key: jax.random.uniform(key, (size,)))(keys)
    return jnp.searchsorted(cumulative, uniform * cumulative[-1], side="right").astype(jnp.int32)


def invert(cumulative: Float[Array, "b s v"], uniform: Float[Array, "b s"]) -> Int[Array, "b s"]:
    """The token whose interval of the running sum holds the uniform draw."""
    below = cumulative <= (uniform * cumulative[..., -1])[..., None]
    return below.sum(axis=-1, dtype=jnp.int32)


def write(
    ids: Int[Array, "b l"], slots: Int[Array, "b s"], tokens: Int[Array, "b s"], slot_mask: Bool[Array, "b s"]
) -> Int[Array, "b l"]:
    """The rows with `tokens` at those slots that the mask keeps; of several at one place, the first one's.

    The published code writes the floor of such tokens' average, which is an unrelated token: a defect, left out.
    """
    length, size = ids.shape[1], slots.shape[1]
    same_place = (slots[:, :, None] == slots[:, None, :]) & slot_mask[:, None, :]
    is_first = ~jnp.tril(same_place, -1).any(axis=2)
    # What is not written gets a place of its own past the row's end, where it is dropped.
    target = jnp.where(slot_mask & is_first, slots, length + jnp.arange(size, dtype=slots.dtype))
    put = jax.vmap(lambda row, at, new: row.at[at].set(new, mode="drop", unique_indices=True))
    return put(ids, target, tokens)


def replace(inputs: Inputs, masking: Masking, tokens: Int[Array, "b s"]) -> tuple[Inputs, Bool[Array, "b l"]]:
    """Rows with the drawn tokens in the used slots, and which tokens now differ from the original.

    A draw that equals the original is labelled original (paper, section 3.1). The structure of the row stays
    the original's, even where a drawn token is [CLS] or [SEP].
    """
    corrupted = write(inputs.ids, masking.slots, tokens, masking.slot_mask)
    return inputs._replace(ids=corrupted), corrupted != inputs.ids
