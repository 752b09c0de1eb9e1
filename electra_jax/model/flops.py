"""Floating-point operations that the networks really compute; a multiplication and an addition are two."""

from electra_jax.config import ModelConfig, PretrainConfig, generator_model, num_slots


def encoder_flops(model: ModelConfig, rows: int, length: int) -> int:
    """One forward pass of the encoder over [rows, length] tokens: matrix products only, attention included."""
    h, tokens = model.hidden_size, rows * length
    project = 2 * model.embedding_size * h if model.embedding_size != h else 0
    layer = 8 * h * h + 4 * h * model.intermediate_size + 4 * length * h
    return tokens * (project + model.num_hidden_layers * layer)


def train_step_flops(config: PretrainConfig) -> int:
    """One step of both networks: the forward pass and twice as much backward; recomputation is not counted."""
    rows, length, model = config.train.batch_size, config.data.length, config.model
    generator = generator_model(config)
    slots = rows * num_slots(config.objective, length)
    forward = encoder_flops(generator, rows, length)
    forward += slots * 2 * model.embedding_size * (generator.hidden_size + model.vocab_size)
    if config.objective.has_discriminator:
        forward += encoder_flops(model, rows, length)
        forward += rows * length * 2 * model.hidden_size * (model.hidden_size + 1)
    return 3 * forward
