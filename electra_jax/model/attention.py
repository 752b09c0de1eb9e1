"""Multi-head self-attention that stays within an example, and its implementations."""

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int, UInt32

from electra_jax.config import ModelConfig
from electra_jax.model.dropout import dropout
from electra_jax.model.implementations import Use, choose, describe
from electra_jax.model.initializers import matrix_init
from electra_jax.networks import NetworksConfig

# The uses of dropout within one layer; `site` = layer · SITES + one of these.
ATTENTION_SITE, ATTENTION_OUTPUT_SITE, FEED_FORWARD_SITE, SITES = 0, 1, 2, 4

ON_ONE_DEVICE = PartitionSpec()


class Kernels(NamedTuple):
    """How the networks are computed, never what they compute: the model's share of RuntimeConfig."""

    dtype: str = "float32"
    attention: str = "auto"
    unroll_layers: bool = True
    remat: str = "none"
    vocab_chunks: int = 1
    longest: int | None = None  # row that will come, where its length is not known when this is compiled
    platform: str | None = None  # that computes: cpu, gpu or tpu; None: any, so by what each of them has
    # How [batch, length, heads, head size] lies over the mesh in force; None: in a way that a kernel cannot be told.
    spread: PartitionSpec | None = ON_ONE_DEVICE


class Rotation(NamedTuple):
    """Sine and cosine of each token's rotary angles."""

    sin: Float[Array, "b l half"]
    cos: Float[Array, "b l half"]


class Context(NamedTuple):
    """What every layer of a stack reads beside its input."""

    segment_ids: Int[Array, "b l"]
    dropout_seeds: UInt32[Array, "b 2"] | None
    rotation: Rotation | None  # None with learned positions


class SelfAttention(nn.Module):
    """softmax(QKᵀ/√d)V over the tokens of the same example, projected back to the hidden size.

    With `first_only` each row's first token alone asks, and the result has one state a row.
    """

    config: ModelConfig
    kernels: Kernels
    first_only: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "t h"], context: Context, site: UInt32[Array, ""]) -> Float[Array, "q h"]:
        c = self.config
        batch, length = context.segment_ids.shape
        asking = 1 if self.first_only else length

        def project(name: str, x: Float[Array, "_ h"]) -> Float[Array, "b _l n d"]:
            kernel_init = matrix_init(c)
            dense = nn.Dense(c.hidden_size, dtype=self.kernels.dtype, kernel_init=kernel_init, name=name)
            return dense(x).reshape(batch, -1, c.num_attention_heads, c.hidden_size // c.num_attention_heads)

        query = project("query", first_tokens(x, context.segment_ids) if self.first_only else x)
        key, value = project("key", x), project("value", x)
        if context.rotation is not None:
            query = rotate(query, Rotation(*(part[:, :asking] for part in context.rotation)))
            key = rotate(key, context.rotation)
        use = use_of(c, self.kernels, length, is_training=context.dropout_seeds is not None)
        name = choose(self.kernels.attention, use)
        if name in ("cudnn", "flash") and (self.first_only or self.is_initializing()):
            name = "xla"  # one query a row is no work for a kernel, and parameters are the same by all
        seeds, site = context.dropout_seeds, site + ATTENTION_SITE
        mixed = mix(name, self.kernels, query, key, value, context.segment_ids, seeds, site, use.rate)
        mixed = mixed.reshape(batch * asking, c.hidden_size)
        output_init = matrix_init(c, is_output=True)
        return nn.Dense(c.hidden_size, dtype=self.kernels.dtype, kernel_init=output_init, name="output")(mixed)


def mix(
    name: str,
    kernels: Kernels,
    query: Float[Array, "b q n d"],
    key: Float[Array, "b l n d"],
    value: Float[Array, "b l n d"],
    segment_ids: Int[Array, "b l"],
    seeds: UInt32[Array, "b 2"] | None = None,
    site: UInt32[Array, ""] | int = 0,
    rate: float = 0.0,
) -> Float[Array, "b q n d"]:
    """Attention within each segment by the implementation of this name, one that `choose` allows.

    The queries are a row's tokens, or the first ones of them (not with flash).
    """
    if name == "flash":
        from electra_jax.model.flash import flash

        assert kernels.spread is not None
        return flash(query, key, value, segment_ids, kernels.spread, kernels.platform == "cpu")

    def mixed(query: Array, key: Array, value: Array) -> Array:
        same = segment_ids[:, : query.shape[1], None] == segment_ids[:, None, :]
        if name == "einsum":
            return attend(query, key, value, same, seeds, site, rate)
        library: Literal["cudnn", "xla"] = "cudnn" if name == "cudnn" else "xla"
        return jax.nn.dot_product_attention(query, key, value, mask=same[:, None], implementation=library)

    # Probabilities, length² of them a head, are most of what a layer would keep for its backward pass: written out,
    # attention computes them again there, as kernels do. On a CPU XLA merges the two again where no loop is between.
    is_merged = kernels.platform == "cpu" and kernels.unroll_layers
    if name != "cudnn" and kernels.remat == "none" and not is_merged:
        mixed = jax.checkpoint(mixed, prevent_cse=kernels.unroll_layers)
    return mixed(query, key, value)


def use_of(config: ModelConfig, kernels: Kernels, length: Any, is_training: bool) -> Use:
    """What a network asks of attention over rows of so many tokens, a symbol where an export leaves that open."""
    return Use(
        rate=config.attention_probs_dropout_prob if is_training else 0.0,
        dtype=kernels.dtype,
        head_size=config.hidden_size // config.num_attention_heads,
        length=length,
        platform=kernels.platform,
        is_placed=kernels.spread is not None,
    )


def describe_attention(networks: NetworksConfig, kernels: Kernels, lengths: Sequence[int]) -> str:
    """One line for people: the implementation in each network, in training and in evaluation, and why.

    Raises UserError where the one asked for cannot compute what the networks ask of it.
    """
    uses = {
        purpose: [
            (name, use_of(sizes, kernels, length, purpose == "training"))
            for name, sizes in networks.each.items()
            for length in lengths
        ]
        for purpose in ("training", "evaluation")
    }
    return describe(kernels.attention, uses)


def first_tokens(x: Float[Array, "t h"], segment_ids: Int[Array, "b l"]) -> Float[Array, "b h"]:
    """The state of the first token of each of these rows."""
    return x.reshape(*segment_ids.shape, x.shape[-1])[:, 0]


def attend(
    query: Float[Array, "b q n d"],
    key: Float[Array, "b l n d"],
    value: Float[Array, "b l n d"],
    same: Bool[Array, "b q l"],
    seeds: UInt32[Array, "b 2"] | None,
    site: UInt32[Array, ""] | int,
    rate: float,
) -> Float[Array, "b q n d"]:
    """Attention written out, with dropout on the probabilities; the softmax is float32 whatever comes in.

    The queries are a row's tokens, or the first ones of them.
    A padding query attends padding, which keeps its softmax finite; no real token ever attends it.
    """
    scale = query.shape[-1] ** -0.5
    scores = jnp.einsum("blnd,bmnd->bnlm", query * jnp.asarray(scale, query.dtype), key)
    scores = jnp.where(same[:, None], scores.astype(jnp.float32), jnp.finfo(jnp.float32).min)
    whole = (query.shape[2], key.shape[1], key.shape[1])
    probabilities = dropout(jax.nn.softmax(scores, axis=-1), seeds, site, rate, whole)
    return jnp.einsum("bnlm,bmnd->blnd", probabilities.astype(value.dtype), value)


def create_rotation(positions: Int[Array, "b l"], end: int, head_size: int, base: float) -> Rotation:
    """The angles position · base^(−2i/d) of positions below `end`.

    Looked up in a table: computed in place, XLA would do it anew in each layer, a sixth of a tiny step on a CPU.
    """
    frequency = base ** (-2 * np.arange(head_size // 2) / head_size)
    angle = np.arange(end)[:, None] * frequency
    sin, cos = (jnp.asarray(table, jnp.float32)[positions] for table in (np.sin(angle), np.cos(angle)))
    return Rotation(sin, cos)


def rotate(x: Float[Array, "b l n d"], rotation: Rotation) -> Float[Array, "b l n d"]:
    """Rotary positions (RoFormer, arXiv 2104.09864): turns the pairs (i, i + d/2)."""
    sin, cos = (part[:, :, None, :].astype(x.dtype) for part in rotation)
    left, right = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([left * cos - right * sin, right * cos + left * sin], axis=-1)
