"""Heads of fine-tuned discriminators: Hugging Face's, and the paper's as its published code has them."""

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax.typing import Initializer
from jaxtyping import Array, Bool, Float, Int, UInt32

from electra_jax.config import ModelConfig
from electra_jax.model.attention import SITES, Kernels
from electra_jax.model.dropout import dropout
from electra_jax.model.encoder import gelu
from electra_jax.model.initializers import projection_init
from electra_jax.model.spans import MASKED, SpanLogits, best_starts
from electra_jax.networks import TaskConfig

# Between a pair of states and their score, whatever the size of the network (published code).
PAIR_SIZE = 512


class TaskHead(nn.Module):
    """Float32 scores: one row of labels an example for a sequence, else one a token.

    A sequence is read off [CLS] by one matrix (paper) or through dense and GELU (Hugging Face); a token, and Hugging
    Face's start and end of a span, by one matrix.
    """

    config: ModelConfig
    task: TaskConfig
    kernels: Kernels

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "b l h"], dropout_seeds: UInt32[Array, "b 2"] | None = None
    ) -> Float[Array, "b *l n"]:
        c, dtype = self.config, self.kernels.dtype
        rate, site = self.task.dropout_in(c), _first_site(c)
        outputs = nn.Dense(len(self.task.labels), dtype=jnp.float32, kernel_init=projection_init(c), name="output")
        if self.task.name == "question_answering":
            return outputs(hidden)
        if self.task.name == "token_classification":
            return outputs(dropout(hidden, dropout_seeds, site, rate))
        x = dropout(hidden[:, 0], dropout_seeds, site, rate)
        if self.task.form == "paper":
            return outputs(x)
        x = gelu(nn.Dense(c.hidden_size, dtype=dtype, kernel_init=projection_init(c), name="dense")(x))
        return outputs(dropout(x, dropout_seeds, site + 1, rate))


class SpanHead(nn.Module):
    """The paper's question answering: the start, the end given the start, and whether there is no answer at all.

    The published code's `joint_prediction` and `answerable_classifier`.
    """

    config: ModelConfig
    task: TaskConfig
    kernels: Kernels

    @nn.compact
    def __call__(
        self,
        hidden: Float[Array, "b l h"],
        allowed: Bool[Array, "b l"],
        starts: Int[Array, "b k"] | None,
        beam: int,
        dropout_seeds: UInt32[Array, "b 2"] | None = None,
    ) -> SpanLogits:
        """Ends for the given starts, as in training, else for those of the beam."""
        c = self.config
        hidden = dropout(hidden, dropout_seeds, _first_site(c), self.task.dropout_in(c))
        start = nn.Dense(1, dtype=jnp.float32, kernel_init=projection_init(c), name="start")(hidden)[..., 0]
        start = jnp.where(allowed, start, MASKED)
        starts = best_starts(start, beam) if starts is None else starts
        at_starts = jnp.take_along_axis(hidden, starts[..., None], axis=1)
        end = PairScore(c, self.kernels, name="end")(at_starts, hidden)
        no_answer = None
        if self.task.answerability:
            expected = jnp.einsum("bl,blh->bh", jax.nn.softmax(start), hidden.astype(jnp.float32))
            pair = PairScore(c, self.kernels, name="no_answer")
            no_answer = pair(hidden[:, :1], expected[:, None].astype(hidden.dtype))[:, 0, 0]
        return SpanLogits(start, starts, jnp.where(allowed[:, None], end, MASKED), no_answer)


class PairScore(nn.Module):
    """dense to PAIR_SIZE over [first; second], GELU, one float32 logit, for each first with each second."""

    config: ModelConfig
    kernels: Kernels

    @nn.compact
    def __call__(self, first: Float[Array, "b k h"], second: Float[Array, "b l h"]) -> Float[Array, "b k l"]:
        dtype, hidden, init = self.kernels.dtype, self.config.hidden_size, projection_init(self.config)
        kernel, bias = Weights((2 * hidden, PAIR_SIZE), init, name="dense")()
        output, output_bias = Weights((PAIR_SIZE, 1), init, name="output")()
        # The matrix' two halves apart, so that each state is multiplied once and not once a pair.
        firsts = _project(first, kernel[:hidden].astype(dtype))
        seconds = _project(second, kernel[hidden:].astype(dtype)) + bias.astype(dtype)

        def score(of: Float[Array, "b p"]) -> Float[Array, "b l"]:
            x = gelu(of[:, None] + seconds).astype(jnp.float32)
            return _project(x, output)[..., 0] + output_bias

        # One first at a time: all at once, 20 starts of 32 rows of 512 tokens would take 700 MB.
        return jnp.moveaxis(jax.lax.map(score, jnp.moveaxis(firsts, 1, 0)), 0, 1)


class Weights(nn.Module):
    """A dense layer's kernel and bias, for a caller that multiplies by them itself."""

    shape: tuple[int, int]
    kernel_init: Initializer

    @nn.compact
    def __call__(self) -> tuple[Float[Array, "i o"], Float[Array, " o"]]:
        kernel = self.param("kernel", self.kernel_init, self.shape)
        return kernel, self.param("bias", nn.initializers.zeros_init(), self.shape[1:])


def _project(x: Float[Array, "b l i"], kernel: Float[Array, "i o"]) -> Float[Array, "b l o"]:
    # In two dimensions, as the encoder's: see there.
    return (x.reshape(-1, x.shape[-1]) @ kernel).reshape(*x.shape[:-1], -1)


def _first_site(config: ModelConfig) -> int:
    return config.num_hidden_layers * SITES + 1  # the encoder's own last site is the one before
