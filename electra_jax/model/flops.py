"""Floating-point operations that the networks really compute; a multiplication and an addition are two."""

from typing import NamedTuple

from electra_jax.config import ModelConfig, PretrainConfig, generator_model, num_slots


class ForwardFlops(NamedTuple):
    """Matrix products of one step's forward pass; no discriminator under `mlm`."""

    generator: int
    mlm_head: int
    discriminator: int
    rtd_head: int


def encoder_flops(model: ModelConfig, rows: int, length: int) -> int:
    """One forward pass of the encoder over [rows, length] tokens: matrix products only, attention included."""
    h, tokens = model.hidden_size, rows * length
    project = 2 * model.embedding_size * h if model.embedding_size != h else 0
    layer = 8 * h * h + 4 * h * model.intermediate_size + 4 * length * h
    return tokens * (project + model.num_hidden_layers * layer)


def mlm_head_flops(generator: ModelConfig, slots: int) -> int:
    """The generator's dense layer and its product with the whole word table, at so many masked slots."""
    return slots * 2 * generator.embedding_size * (generator.hidden_size + generator.vocab_size)


def rtd_head_flops(model: ModelConfig, tokens: int) -> int:
    """The discriminator's dense layer and its one logit a token."""
    return tokens * 2 * model.hidden_size * (model.hidden_size + 1)


def forward_flops(config: PretrainConfig) -> ForwardFlops:
    """The forward pass of one step: matrix products only, of all slots and of padding too, as they are computed."""
    rows, length, model, generator = config.train.batch_size, config.data.length, config.model, generator_model(config)
    slots = rows * num_slots(config.objective, length)
    both = config.objective.has_discriminator
    return ForwardFlops(
        generator=encoder_flops(generator, rows, length),
        mlm_head=mlm_head_flops(generator, slots),
        discriminator=encoder_flops(model, rows, length) if both else 0,
        rtd_head=rtd_head_flops(model, rows * length) if both else 0,
    )


def train_step_flops(config: PretrainConfig) -> int:
    """One step of both networks: the forward pass and twice as much backward; recomputation is not counted."""
    return 3 * sum(forward_flops(config))
