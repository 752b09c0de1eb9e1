"""Embeddings, the encoder layer and the stack.

Activations are two-dimensional, [tokens, hidden] with tokens = batch · length, from the embeddings to the heads:
XLA's weight gradient of a three-dimensional matmul is about twice as slow on a CPU.
"""

from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, UInt32

from electra_jax.config import ModelConfig
from electra_jax.model.attention import (
    ATTENTION_OUTPUT_SITE,
    FEED_FORWARD_SITE,
    SITES,
    Context,
    Kernels,
    SelfAttention,
    create_rotation,
    first_tokens,
)
from electra_jax.model.dropout import dropout
from electra_jax.model.initializers import matrix_init, projection_init, table_init
from electra_jax.model.inputs import Inputs

# What a layer keeps for its backward pass, by RuntimeConfig.remat: products with weights, or nothing but its input.
KEPT = {"products": jax.checkpoint_policies.dots_with_no_batch_dims_saveable, "layers": None}

TableSource = Literal["own", "word_given", "difference"]


class Tables(NamedTuple):
    """The arrays a second network may read: its words and, with absolute positions, its positions."""

    word: Float[Array, "v e"]
    position: Float[Array, "p e"] | None


class Embeddings(nn.Module):
    """word + position + token type → LayerNorm (→ dropout, in `Encoder`).

    `tables` says where the word and position tables come from: `own`; `word_given`, the word table of the other
    network; `difference`, stop_gradient(the other network's) + an own difference that starts at zero (GDES).
    """

    config: ModelConfig
    kernels: Kernels
    tables: TableSource = "own"

    def setup(self) -> None:
        c = self.config
        init = table_init(c)
        table = nn.initializers.zeros_init() if self.tables == "difference" else init
        if self.tables != "word_given":
            self.word_embeddings = self.param("word_embeddings", table, (c.vocab_size, c.embedding_size))
        if c.position == "absolute":
            shape = (c.max_position_embeddings, c.embedding_size)
            self.position_embeddings = self.param("position_embeddings", table, shape)
        self.token_type_embeddings = self.param("token_type_embeddings", init, (c.type_vocab_size, c.embedding_size))
        self.layer_norm = layer_norm(c, "layer_norm")

    def read(self, given: Tables | None = None) -> Tables:
        """The tables this network reads."""
        position = self.position_embeddings if self.config.position == "absolute" else None
        if self.tables == "own":
            return Tables(self.word_embeddings, position)
        assert given is not None
        if self.tables == "word_given":
            return Tables(given.word, position)
        word = jax.lax.stop_gradient(given.word) + self.word_embeddings
        if position is not None and given.position is not None:
            position = jax.lax.stop_gradient(given.position) + position
        return Tables(word, position)

    def __call__(self, inputs: Inputs, given: Tables | None = None) -> Float[Array, "t e"]:
        tables = self.read(given)
        # An id outside the vocabulary reads NaN here (mode "fill"), so it can never train anything unnoticed.
        summed = jnp.take(tables.word, inputs.ids.reshape(-1), axis=0, mode="fill")
        if tables.position is not None:
            summed += jnp.take(tables.position, inputs.positions.reshape(-1), axis=0, mode="fill")
        summed += jnp.take(self.token_type_embeddings, inputs.token_type_ids.reshape(-1), axis=0, mode="fill")
        return self.layer_norm(summed).astype(self.kernels.dtype)


class Encoder(nn.Module):
    """Dropout, the projection to the hidden size where it differs, and the stack of layers.

    With `first_only` the result is the state of each row's first token; unrolled, the last layer computes no other.
    """

    config: ModelConfig
    kernels: Kernels

    @nn.compact
    def __call__(
        self,
        embedded: Float[Array, "t e"],
        inputs: Inputs,
        dropout_seeds: UInt32[Array, "b 2"] | None,
        first_only: bool = False,
    ) -> Float[Array, "q h"]:
        c = self.config
        first_site = c.num_hidden_layers * SITES
        x = _dropout_rows(embedded, dropout_seeds, first_site, c.hidden_dropout_prob)
        if c.embedding_size != c.hidden_size:
            dense = nn.Dense(
                c.hidden_size, dtype=self.kernels.dtype, kernel_init=projection_init(c), name="embeddings_project"
            )
            x = dense(x)
        rotation = None
        if c.position == "rope":
            head_size = c.hidden_size // c.num_attention_heads
            end = self.kernels.longest or inputs.ids.shape[1]
            rotation = create_rotation(inputs.positions, end, head_size, c.rope_base)
        context = Context(inputs.segment_ids, dropout_seeds, rotation)
        sites = jnp.arange(c.num_hidden_layers, dtype=jnp.uint32) * SITES
        remat = self.kernels.remat
        # Without a loop around it, XLA merges a layer's recomputation with the layer on a CPU, and nothing is saved.
        if self.kernels.unroll_layers and remat == "none" and not self.is_initializing():
            x = self._unrolled(x, context, sites, first_only)
        else:
            layer: Any = EncoderLayer
            if remat != "none":
                layer = nn.remat(EncoderLayer, policy=KEPT[remat], prevent_cse=False)
            layers = nn.scan(
                layer,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=(nn.broadcast, 0),
                length=c.num_hidden_layers,
            )
            x, _ = layers(c, self.kernels, name="layer")(x, context, sites)
            x = first_tokens(x, inputs.segment_ids) if first_only else x
        return layer_norm(c, "layer_norm")(x).astype(self.kernels.dtype) if c.norm == "pre" else x

    def _unrolled(
        self, x: Float[Array, "t h"], context: Context, sites: UInt32[Array, " layers"], first_only: bool
    ) -> Float[Array, "q h"]:
        """The same layers one after the other, on the same stacked parameters.

        The stack is split once, so that its gradient is one concatenation; scan's own unrolling updates the whole
        stack once a layer, which took 2.5 times as long a step on a CPU.
        """
        count = len(sites)
        stack = self.variables["params"]["layer"]
        leaves, tree = jax.tree.flatten(stack)
        parts = [jax.lax.split(leaf, [1] * count) for leaf in leaves]
        for index in range(count):
            layer = EncoderLayer(self.config, self.kernels, first_only and index == count - 1, parent=None)
            params = jax.tree.unflatten(tree, [part[index].squeeze(0) for part in parts])
            x, _ = layer.apply({"params": params}, x, context, sites[index])
        return x


class EncoderLayer(nn.Module):
    """One transformer layer: LayerNorm after each residual sum (BERT, the paper) or before each block.

    With `first_only` the result is the state of each row's first token.
    """

    config: ModelConfig
    kernels: Kernels
    first_only: bool = False

    @nn.compact
    def __call__(
        self, x: Float[Array, "t h"], context: Context, site: UInt32[Array, ""]
    ) -> tuple[Float[Array, "q h"], None]:
        c = self.config
        if c.convolution_width:
            x = Convolution(c, self.kernels, name="convolution")(x, context.segment_ids)
        attention = SelfAttention(c, self.kernels, self.first_only, name="attention")
        attention_norm, output_norm = layer_norm(c, "attention_layer_norm"), layer_norm(c, "output_layer_norm")

        def attend(y: Float[Array, "t h"]) -> Float[Array, "q h"]:
            seeds, rate = context.dropout_seeds, c.hidden_dropout_prob
            return _dropout_rows(attention(y, context, site), seeds, site + ATTENTION_OUTPUT_SITE, rate)

        def residual(x: Float[Array, "t h"]) -> Float[Array, "q h"]:
            return first_tokens(x, context.segment_ids) if self.first_only else x

        def feed_forward(y: Float[Array, "q h"]) -> Float[Array, "q h"]:
            dtype, out_init = self.kernels.dtype, matrix_init(c, is_output=True)
            y = nn.Dense(c.intermediate_size, dtype=dtype, kernel_init=matrix_init(c), name="intermediate")(y)
            y = nn.Dense(c.hidden_size, dtype=dtype, kernel_init=out_init, name="output")(gelu(y))
            seeds, rate = context.dropout_seeds, c.hidden_dropout_prob
            return _dropout_rows(y, seeds, site + FEED_FORWARD_SITE, rate)

        if c.norm == "post":
            x = attention_norm(residual(x) + attend(x)).astype(x.dtype)
            return output_norm(x + feed_forward(x)).astype(x.dtype), None
        x = residual(x) + attend(attention_norm(x).astype(x.dtype))
        return x + feed_forward(output_norm(x).astype(x.dtype)), None


class Convolution(nn.Module):
    """A depthwise convolution along the row that never reaches into another example or padding.

    Not the paper's; it starts near the identity.
    """

    config: ModelConfig
    kernels: Kernels

    @nn.compact
    def __call__(self, x: Float[Array, "t h"], segment_ids: Int[Array, "b l"]) -> Float[Array, "t h"]:
        width, hidden = self.config.convolution_width, self.config.hidden_size

        def near_identity(key: Array, shape: tuple[int, int]) -> Float[Array, "w h"]:
            return (0.02 * jax.random.normal(key, shape)).at[width // 2].add(1.0)

        kernel = self.param("taps", near_identity, (width, hidden)).astype(x.dtype)
        rows = x.reshape(*segment_ids.shape, hidden)
        result = rows * kernel[width // 2]
        for tap in range(width):
            shift = tap - width // 2
            if shift:
                neighbour = _shift(segment_ids, shift) == segment_ids
                result += jnp.where(neighbour[..., None], _shift(rows, shift), 0) * kernel[tap]
        return result.reshape(x.shape)


def layer_norm(config: ModelConfig, name: str) -> nn.LayerNorm:
    """LayerNorm with float32 statistics and result."""
    return nn.LayerNorm(epsilon=config.layer_norm_eps, dtype=jnp.float32, name=name)


def gelu(x: Float[Array, "*s"]) -> Float[Array, "*s"]:
    """The exact form of BERT, x·Φ(x). By erf: jax.nn.gelu's erfc takes three times as long on a CPU."""
    return 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))


def _shift(x: Array, by: int) -> Array:
    """x[:, i + by] at i, with zeros (no example's segment id) beyond the ends."""
    pad = [(0, 0), (max(0, -by), max(0, by))] + [(0, 0)] * (x.ndim - 2)
    padded = jnp.pad(x, pad)
    return padded[:, max(0, by) : max(0, by) + x.shape[1]]


def _dropout_rows(
    x: Float[Array, "t h"], seeds: UInt32[Array, "b 2"] | None, site: UInt32[Array, ""] | int, rate: float
) -> Float[Array, "t h"]:
    if seeds is None:
        return x
    return dropout(x.reshape(len(seeds), -1, x.shape[-1]), seeds, site, rate).reshape(x.shape)
