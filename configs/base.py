"""ELECTRA-Base (paper, Table 6): 12 × 768, length 512, batch 256, 766K steps."""

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
        name="base",
        model=ModelConfig(
            vocab_size=30522,
            embedding_size=768,
            hidden_size=768,
            num_hidden_layers=12,
            num_attention_heads=12,
            intermediate_size=3072,
            initialization="truncated_normal",
            embedding_sharing="all",
        ),
        generator=GeneratorConfig(width_fraction=1 / 3),
        objective=ObjectiveConfig(
            mask_prob=0.15,
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
        train=TrainConfig(steps=766_000, batch_size=256),
    )
