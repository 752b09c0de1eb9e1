"""A fine-tuning's compiled program, of a tiny encoder and rows of random tokens."""

from typing import Any

import numpy as np
from parity import random_params

from electra_jax.config import ModelConfig, ObjectiveConfig
from electra_jax.finetune.chunk import Program
from electra_jax.finetune.config import FinetuneConfig, FinetuneRuntime
from electra_jax.finetune.encoding import Encoded
from electra_jax.finetune.rows import TaskRows
from electra_jax.finetune.start import create_start
from electra_jax.model.attention import Kernels
from electra_jax.model.electra import Electra
from electra_jax.networks import NetworksConfig
from electra_jax.pretrain.pretrained import Pretrained
from tests.finetune.tiny_tasks import task, tokenizer_of

LABELS = ("no", "yes")


def tiny_sizes(**changes: Any) -> ModelConfig:
    sizes: dict[str, Any] = {
        "vocab_size": tokenizer_of("wordpiece").vocab_size,
        "embedding_size": 16,
        "hidden_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 64,
    }
    return ModelConfig(**(sizes | changes))


def tiny_source(networks: NetworksConfig | None = None) -> Pretrained:
    """A pre-trained model: of a discriminator alone, where no networks are given."""
    networks = networks or NetworksConfig(discriminator=tiny_sizes())
    model = Electra(networks, Kernels(unroll_layers=False))
    objective = ObjectiveConfig(mask_prob=0.15)
    return Pretrained(model, random_params(networks), tokenizer_of("wordpiece"), 32, objective)


def tiny_config(**changes: Any) -> FinetuneConfig:
    settings: dict[str, Any] = {
        "task": task("classification", labels=LABELS),
        "model": "tiny",
        "seeds": (0, 1, 2, 3),
        "learning_rates": (1e-3,),
        "epochs": 3.0,
        "length": 32,
        "batch_size": 4,
        "layer_decay": 0.8,
        "runtime": FinetuneRuntime(unroll_layers=False),
    }
    return FinetuneConfig(**(settings | changes))


def tiny_program(**changes: Any) -> Program:
    """A classification of 26 rows in two lengths."""
    draw = np.random.default_rng(0)
    source, config = tiny_source(), tiny_config(**changes)
    special, vocab_size = source.special, source.tokenizer.vocab_size
    lengths = [6] * 14 + [14] * 12
    rows = [[special.cls, *draw.integers(10, vocab_size, size).tolist(), special.sep] for size in lengths]
    labels = draw.integers(0, 2, len(rows)).tolist()
    encoded = Encoded(rows, {"label": labels}, list(range(len(rows))))
    return Program(config, create_start(config, source), TaskRows(encoded, [], [], (8, 16), (16,)))
