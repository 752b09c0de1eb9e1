"""The released ELECTRA-Small, "Small++": a generator as wide as the discriminator, 4M steps."""

from electra_jax.config import (
    DataConfig,
    GeneratorConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PretrainConfig,
    TrainConfig,
)


def get_config() -> PretrainConfig:
    return PretrainConfig(
        name="small_plus_plus",
        model=ModelConfig(
            vocab_size=30522,
            embedding_size=128,
            hidden_size=256,
            num_hidden_layers=12,
            num_attention_heads=4,
            intermediate_size=1024,
            initialization="truncated_normal",
            embedding_sharing="all",
        ),
        generator=GeneratorConfig(width_fraction=1.0),
        objective=ObjectiveConfig(
            mask_prob=0.15,
            masked_positions="unique",  # the published code's, which hits some places twice: "with_replacement"
            mask_token_prob=0.85,
            rtd_special_tokens=True,
        ),
        data=DataConfig(length=128),
        optimizer=OptimizerConfig(
            learning_rate=5e-4,
            bias_correction=False,
            decay_norms_and_biases=False,
            warmup_steps=10_000,
            decay_in_warmup=True,
        ),
        train=TrainConfig(steps=4_000_000, batch_size=128),
    )
