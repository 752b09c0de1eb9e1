"""The settings of a fine-tuning, and the paper's recipe by model size."""

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from electra_jax.config import Attention, ModelConfig, OptimizerConfig
from electra_jax.settings import Settings
from electra_jax.tasks.task import Task


class Recipe(NamedTuple):
    """What the paper sets by the size of the model (Appendix B, Table 7)."""

    learning_rate: float
    layer_decay: float


# By the largest hidden size that each is for. The first line is not the paper's, which has no model so small.
RECIPES: dict[int, Recipe] = {
    128: Recipe(1e-3, 0.8),
    511: Recipe(3e-4, 0.8),
    1023: Recipe(1e-4, 0.8),
    1 << 30: Recipe(5e-5, 0.9),
}


@dataclass(frozen=True, kw_only=True)
class FinetuneRuntime(Settings):
    """What changes the speed and the comfort of a fine-tuning, never its result beyond rounding."""

    members_at_once: int | None = None  # None: as many as fit the device's memory
    dtype: Literal["float32", "bfloat16"] = "float32"  # of activations; parameters and losses stay float32
    attention: Attention = "auto"
    unroll_layers: bool = True
    save_minutes: float = 5.0  # between two checkpoints
    log_every: int = 20  # steps between two lines of progress

    def check(self) -> None:
        self.require(self.save_minutes >= 0, f"save_minutes must not be negative, but is {self.save_minutes}")
        self.require(self.log_every >= 1, f"log_every must be at least 1, not {self.log_every}")
        at_once = self.members_at_once
        self.require(at_once is None or at_once >= 1, f"members_at_once must be at least 1, not {at_once}")


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(Settings):
    """One fine-tuning, whole: every seed with every learning rate, from one model."""

    task: Task
    model: str  # the folder of what it begins with, or none: random initialisation
    like: str | None = None  # with none: the folder whose sizes and tokenizer are taken
    # huggingface: the head of Transformers' classes, which can be exported.
    head: Literal["paper", "huggingface"] = "paper"
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    epochs: float
    length: int
    batch_size: int = 32
    # Rows of similar length stand in one batch; random: any, all padded to the longest row (the published code).
    batches: Literal["by_length", "random"] = "by_length"
    # Each layer's rate is this times the one above it.
    layer_decay: float
    layer_decay_form: Literal["paper", "google"] = "paper"
    warmup_share: float = 0.1
    weight_decay: float = 0.0  # the published code has .01
    clip_norm: float = 1.0
    bias_correction: bool = False
    dropout: float = 0.1  # in the encoder and before the head, whatever the model was pre-trained with
    evaluations: int = 6  # spread over the training, the last one at its end
    runtime: FinetuneRuntime = field(default_factory=FinetuneRuntime)

    def check(self) -> None:
        self.require((self.model == "none") == (self.like is not None), "model none, and it alone, goes with like")
        self.require(bool(self.seeds) and bool(self.learning_rates), "give at least one seed and one learning rate")
        self.require(len(set(self.seeds)) == len(self.seeds), f"seeds must differ: {self.seeds}")
        self.require(all(0 <= seed < 2**32 for seed in self.seeds), f"seeds must be in [0, 2³²): {self.seeds}")
        rates = self.learning_rates
        self.require(len(set(rates)) == len(rates), f"learning rates must differ: {rates}")
        self.require(all(rate > 0 for rate in rates), f"learning rates must be above 0: {rates}")
        self.require(self.epochs > 0, f"epochs must be above 0, not {self.epochs}")
        self.require(self.length >= 8, f"length must be at least 8 tokens, not {self.length}")
        self.require(self.batch_size >= 1, f"batch_size must be at least 1, not {self.batch_size}")
        self.require(0 < self.layer_decay <= 1, f"layer_decay must be in (0, 1], not {self.layer_decay}")
        self.require(0 <= self.warmup_share < 1, f"warmup_share must be in [0, 1), not {self.warmup_share}")
        self.require(0 <= self.dropout < 1, f"dropout must be in [0, 1), not {self.dropout}")
        self.require(self.evaluations >= 1, f"evaluations must be at least 1, not {self.evaluations}")
        self.optimizer(1)

    def optimizer(self, steps: int) -> OptimizerConfig:
        """The update's settings for so many steps. Each member multiplies it by its own learning rate."""
        return OptimizerConfig(
            learning_rate=1.0,
            warmup_steps=int(self.warmup_share * steps),
            weight_decay=self.weight_decay,
            clip_norm=self.clip_norm,
            bias_correction=self.bias_correction,
        )


class Member(NamedTuple):
    """One training among those that run together."""

    seed: int
    learning_rate: float


def members_of(config: FinetuneConfig) -> list[Member]:
    """Every seed with every learning rate."""
    return [Member(seed, rate) for rate in config.learning_rates for seed in config.seeds]


def recipe_for(model: ModelConfig) -> Recipe:
    """The recipe of the smallest size that the model does not exceed."""
    return next(recipe for largest, recipe in RECIPES.items() if model.hidden_size <= largest)
