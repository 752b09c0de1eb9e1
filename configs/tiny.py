"""A model that learns to detect in five minutes on two CPU cores; not the paper's recipe, which does not.

What differs from the paper, and why each was needed, stands in docs/results/tiny.md.
"""

from electra_jax.config import (
    DataConfig,
    GeneratorConfig,
    ModelConfig,
    ObjectiveConfig,
    OptimizerConfig,
    PretrainConfig,
    RuntimeConfig,
    TrainConfig,
)


def get_config() -> PretrainConfig:
    return PretrainConfig(
        name="tiny",
        model=ModelConfig(
            vocab_size=4096,
            embedding_size=64,
            hidden_size=128,
            num_hidden_layers=4,
            num_attention_heads=2,
            intermediate_size=512,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            initialization="fan_in",
            embedding_sharing="gdes",
            position="rope",
            rope_base=1000.0,
            norm="pre",
            convolution_width=3,
        ),
        generator=GeneratorConfig(width_fraction=1 / 4, depth_fraction=1 / 4, num_attention_heads=2),
        objective=ObjectiveConfig(mask_prob=0.15),
        data=DataConfig(length=64),
        optimizer=OptimizerConfig(
            name="muon",
            learning_rate=3e-3,
            muon_learning_rate=1e-2,
            b2=0.98,
            bias_correction=True,
            weight_decay=0.0,
            schedule="cosine",
            warmup_steps=54,
            per_network=True,
        ),
        train=TrainConfig(steps=900, batch_size=64),
        runtime=RuntimeConfig(eval_every=100, save_every=100),
    )
