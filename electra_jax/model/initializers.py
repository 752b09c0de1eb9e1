"""How weights are drawn: as the published code draws them, or by fan-in."""

from flax.typing import Initializer
from jax.nn import initializers

from electra_jax.config import ModelConfig


def table_init(config: ModelConfig) -> Initializer:
    """Embedding tables: a normal truncated at two standard deviations of `initializer_range`."""
    return initializers.truncated_normal(config.initializer_range)


def matrix_init(config: ModelConfig, is_output: bool = False) -> Initializer:
    """Hidden matrices. By fan-in: .7/√fan_in, and a further 1/√(2·layers) where the result joins the residual."""
    if config.initialization == "truncated_normal":
        return initializers.truncated_normal(config.initializer_range)
    scale = 0.7 / (2 * config.num_hidden_layers) ** 0.5 if is_output else 0.7
    return initializers.variance_scaling(scale**2, "fan_in", "normal")


def projection_init(config: ModelConfig) -> Initializer:
    """The embedding projection, the last RTD layer and fine-tuned heads: Glorot uniform (published code)."""
    return initializers.glorot_uniform() if config.initialization == "truncated_normal" else matrix_init(config)
