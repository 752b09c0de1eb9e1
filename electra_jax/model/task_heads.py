"""Heads of fine-tuned discriminators, in the form that Hugging Face's classes have."""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt32

from electra_jax.config import ModelConfig
from electra_jax.model.attention import SITES, Kernels
from electra_jax.model.dropout import dropout
from electra_jax.model.encoder import gelu
from electra_jax.model.initializers import projection_init
from electra_jax.networks import TaskConfig


class TaskHead(nn.Module):
    """Float32 scores: one row of labels an example for a sequence, else one a token.

    A sequence is read off [CLS] through dense and GELU; a token, and a span's start and end, by one matrix.
    """

    config: ModelConfig
    task: TaskConfig
    kernels: Kernels

    @nn.compact
    def __call__(
        self, hidden: Float[Array, "b l h"], dropout_seeds: UInt32[Array, "b 2"] | None = None
    ) -> Float[Array, "b *l n"]:
        c, dtype = self.config, self.kernels.dtype
        rate = c.hidden_dropout_prob if self.task.dropout is None else self.task.dropout
        site = c.num_hidden_layers * SITES + 1  # the encoder's own last site is the one before
        outputs = nn.Dense(len(self.task.labels), dtype=jnp.float32, kernel_init=projection_init(c), name="output")
        if self.task.name == "question_answering":
            return outputs(hidden)
        if self.task.name == "token_classification":
            return outputs(dropout(hidden, dropout_seeds, site, rate))
        x = dropout(hidden[:, 0], dropout_seeds, site, rate)
        x = gelu(nn.Dense(c.hidden_size, dtype=dtype, kernel_init=projection_init(c), name="dense")(x))
        return outputs(dropout(x, dropout_seeds, site + 1, rate))
