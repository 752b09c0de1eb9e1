"""ELECTRA-Large (paper, Table 6): 24 × 1024, length 512, batch 2048, 400K steps (1.75M in the longer run)."""

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
        name="large",
        model=ModelConfig(
            vocab_size=30522,
            embedding_size=1024,
            hidden_size=1024,
            num_hidden_layers=24,
            num_attention_heads=16,
            intermediate_size=4096,
            initialization="truncated_normal",
            embedding_sharing="all",
        ),
        generator=GeneratorConfig(width_fraction=1 / 4),
        objective=ObjectiveConfig(
            mask_prob=0.25,
            masked_positions="unique",  # the published code's, which hits some places twice: "with_replacement"
            mask_token_prob=0.85,
            rtd_special_tokens=True,
        ),
        data=DataConfig(length=512),
        optimizer=OptimizerConfig(
            learning_rate=2e-4,
            bias_correction=False,
            decay_norms_and_biases=False,
            warmup_steps=10_000,
            decay_in_warmup=True,
        ),
        train=TrainConfig(steps=400_000, batch_size=2048),
    )
