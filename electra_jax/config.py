"""Every setting, declared once.

Groups that change a run's result (`model`, `generator`, `objective`, `data`, `optimizer`, `train`) are kept
apart from `runtime`, which must not. What depends on the model's size in the paper has no default here: a
preset states it or does not exist.
"""

import dataclasses
import json
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from electra_jax.errors import UserError
from electra_jax.settings import Settings, from_json

Sharing = Literal["none", "token", "all", "gdes"]
# How attention is computed; auto: by the fastest that can do so here (electra_jax/model/implementations.py).
Attention = Literal["auto", "einsum", "xla", "cudnn", "flash"]
Remat = Literal["none", "products", "layers"]


class SpecialTokens(NamedTuple):
    """The ids that give a row its structure. They come with the tokenizer; padding is always 0."""

    pad: int
    cls: int
    sep: int
    mask: int


@dataclass(frozen=True, kw_only=True)
class ModelConfig(Settings):
    """The discriminator's encoder and the embeddings (paper, section 3.3 and Table 6).

    The generator is the same architecture at the size that `GeneratorConfig` gives: see `generator_model`.
    """

    vocab_size: int
    embedding_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int = 512
    type_vocab_size: int = 2
    hidden_dropout_prob: float = 0.1
    attention_probs_dropout_prob: float = 0.1
    layer_norm_eps: float = 1e-12
    initializer_range: float = 0.02
    # Not the paper's: matrices drawn at .7/√fan_in, output projections scaled by a further 1/√(2·layers).
    initialization: Literal["truncated_normal", "fan_in"] = "truncated_normal"
    # none; token: the word table; all: the whole embedding group with its LayerNorm (the published code);
    # gdes: the discriminator reads stop_gradient(generator's table) + its own difference (DeBERTa-v3).
    embedding_sharing: Sharing = "all"
    position: Literal["absolute", "rope"] = "absolute"
    rope_base: float = 10000.0
    norm: Literal["post", "pre"] = "post"
    convolution_width: int = 0

    def check(self) -> None:
        for name in ("vocab_size", "embedding_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                     "intermediate_size", "max_position_embeddings"):  # fmt: skip
            self.require(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")
        self.require(self.type_vocab_size >= 2, f"type_vocab_size must be at least 2, not {self.type_vocab_size}")
        self.require(
            self.hidden_size % self.num_attention_heads == 0,
            f"hidden_size {self.hidden_size} cannot be divided among {self.num_attention_heads} attention heads",
        )
        head_size = self.hidden_size // self.num_attention_heads
        self.require(
            self.position != "rope" or head_size % 2 == 0,
            f"rope turns pairs, so the head size must be even, not {head_size}",
        )
        for name in ("hidden_dropout_prob", "attention_probs_dropout_prob"):
            self.require(0 <= getattr(self, name) < 1, f"{name} must be in [0, 1), not {getattr(self, name)}")
        for name in ("layer_norm_eps", "initializer_range", "rope_base"):
            self.require(getattr(self, name) > 0, f"{name} must be above 0, not {getattr(self, name)}")
        self.require(
            self.convolution_width == 0 or (self.convolution_width > 0 and self.convolution_width % 2 == 1),
            f"convolution_width must be odd, or 0 for none, not {self.convolution_width}",
        )


@dataclass(frozen=True, kw_only=True)
class GeneratorConfig(Settings):
    """The generator's shape, as shares of the discriminator's (paper, section 3.2); not read under `mlm`."""

    width_fraction: float
    depth_fraction: float = 1.0
    # None: hidden size / 64, at least 1, as the published code has it.
    num_attention_heads: int | None = None
    # None: the discriminator's. Only with embedding_sharing none; the published code then takes the hidden size.
    embedding_size: int | None = None

    def check(self) -> None:
        for name in ("width_fraction", "depth_fraction"):
            self.require(0 < getattr(self, name) <= 4, f"{name} must be in (0, 4], not {getattr(self, name)}")
        heads = self.num_attention_heads
        self.require(heads is None or heads >= 1, f"num_attention_heads must be at least 1, not {heads}")
        size = self.embedding_size
        self.require(size is None or size >= 1, f"embedding_size must be at least 1, not {size}")


@dataclass(frozen=True, kw_only=True)
class ObjectiveConfig(Settings):
    """What is corrupted and what is learned from it (paper, section 3.1)."""

    name: Literal["electra", "mlm"] = "electra"
    mask_prob: float
    # The published code draws the slots of a row independently, so that about 7% of them fall on one already drawn.
    masked_positions: Literal["unique", "with_replacement"] = "unique"
    # Of the chosen slots this share becomes [MASK]; the others keep their token and are predicted all the same.
    mask_token_prob: float = 0.85
    gen_weight: float = 1.0
    disc_weight: float = 50.0
    temperature: float = 1.0
    # Both draw from the softmax: by Gumbel noise, or by the inverse of the cumulative distribution (other draws).
    sampler: Literal["gumbel", "inverse_cdf"] = "gumbel"
    # Whether the RTD loss covers [CLS] and [SEP], which are never replaced; the published code's does.
    rtd_special_tokens: bool = True

    @property
    def has_discriminator(self) -> bool:
        """False where the generator is all there is."""
        return self.name != "mlm"

    def check(self) -> None:
        self.require(0 < self.mask_prob < 1, f"mask_prob must be in (0, 1), not {self.mask_prob}")
        self.require(0 <= self.mask_token_prob <= 1, f"mask_token_prob must be in [0, 1], not {self.mask_token_prob}")
        self.require(self.gen_weight >= 0, f"gen_weight must not be negative, but is {self.gen_weight}")
        self.require(self.disc_weight >= 0, f"disc_weight must not be negative, but is {self.disc_weight}")
        self.require(self.temperature > 0, f"temperature must be above 0, not {self.temperature}")


@dataclass(frozen=True, kw_only=True)
class DataConfig(Settings):
    """The form of the rows; the data set itself is named on the command line."""

    length: int  # tokens a row; the paper's max_seq_length

    def check(self) -> None:
        self.require(self.length >= 8, f"length must be at least 8 tokens, not {self.length}")


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig(Settings):
    """The update (paper, Appendix A; published code where `bias_correction` and `decay_in_warmup` say so)."""

    name: Literal["adam", "muon"] = "adam"
    learning_rate: float
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-6
    # The published code's Adam has none.
    bias_correction: bool = False
    weight_decay: float = 0.01
    # The published code's decay skips LayerNorm and biases; embeddings are decayed.
    decay_norms_and_biases: bool = False
    clip_norm: float = 1.0
    schedule: Literal["linear", "cosine"] = "linear"
    warmup_steps: int
    # The published code's decay runs from step 0, through the warm-up; else it begins after it.
    decay_in_warmup: bool = True
    # A clip and an update of its own for each network; only where no parameter serves both.
    per_network: bool = False
    # Muon's rate for the hidden matrices; embeddings, output tables and vectors stay with Adam.
    muon_learning_rate: float = 0.01
    muon_momentum: float = 0.95
    muon_steps: int = 5

    def check(self) -> None:
        for name in ("learning_rate", "muon_learning_rate", "eps", "clip_norm"):
            self.require(getattr(self, name) > 0, f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("b1", "b2", "muon_momentum"):
            self.require(0 <= getattr(self, name) < 1, f"{name} must be in [0, 1), not {getattr(self, name)}")
        for name in ("weight_decay", "warmup_steps"):
            self.require(getattr(self, name) >= 0, f"{name} must not be negative, but is {getattr(self, name)}")
        self.require(self.muon_steps >= 1, f"muon_steps must be at least 1, not {self.muon_steps}")


@dataclass(frozen=True, kw_only=True)
class TrainConfig(Settings):
    """How long, how much at once, and from which seed."""

    steps: int
    batch_size: int  # rows a step, over all devices and processes
    seed: int = 0
    init_from: str | None = None  # a run, an imported model or a Hugging Face folder, whose weights the run begins with

    def check(self) -> None:
        self.require(self.steps >= 1, f"steps must be at least 1, not {self.steps}")
        self.require(self.batch_size >= 1, f"batch_size must be at least 1, not {self.batch_size}")
        self.require(0 <= self.seed < 2**32, f"seed must be in [0, 2³²), not {self.seed}")


@dataclass(frozen=True, kw_only=True)
class MeshConfig(Settings):
    """Devices along each axis of the mesh; -1 takes what is left."""

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def check(self) -> None:
        sizes = (self.data, self.fsdp, self.tensor)
        self.require(all(s == -1 or s >= 1 for s in sizes), f"an axis holds at least 1 device, or -1: {sizes}")
        self.require(sizes.count(-1) <= 1, f"only one axis can take what is left: {sizes}")


@dataclass(frozen=True, kw_only=True)
class RuntimeConfig(Settings):
    """What changes the speed and the comfort of a run, never its result beyond rounding."""

    mesh: MeshConfig = field(default_factory=MeshConfig)
    dtype: Literal["float32", "bfloat16"] = "float32"  # of activations; parameters and losses stay float32
    attention: Attention = "auto"
    unroll_layers: bool = True  # only where nothing is rematerialised
    # What the backward pass computes anew instead of keeping it: products, all but the matrix products with weights;
    # layers, everything between the layers' inputs.
    remat: Remat = "none"
    micro_batches: int = 1
    # Groups of rows whose scores of the vocabulary, [rows · slots, vocab_size], are there one group at a time.
    vocab_chunks: int = 1
    log_every: int = 10
    eval_every: int = 500
    eval_rows: int = 2048
    save_every: int = 500
    keep_last: int = 2
    max_bad_steps: int = 50  # skipped updates in a row before the run stops
    prefetch: int = 8  # batches read ahead
    verify_data: bool = True  # read every shard's checksum before the first step
    tensorboard: bool = True
    profile: int = 0  # steps to record into the workdir's profile/, from the fourth on
    peak_tflops: float | None = None  # of one device, for MFU; None: from the table, or measured on a CPU

    def check(self) -> None:
        for name in ("micro_batches", "vocab_chunks", "log_every", "eval_every", "eval_rows", "save_every",
                     "keep_last", "max_bad_steps", "prefetch"):  # fmt: skip
            self.require(getattr(self, name) >= 1, f"{name} must be at least 1, not {getattr(self, name)}")
        self.require(self.profile >= 0, f"profile must not be negative, but is {self.profile}")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(Settings):
    """One pre-training run, whole."""

    name: str
    model: ModelConfig
    generator: GeneratorConfig
    objective: ObjectiveConfig
    data: DataConfig
    optimizer: OptimizerConfig
    train: TrainConfig
    runtime: RuntimeConfig = field(default_factory=RuntimeConfig)

    @property
    def rows_at_once(self) -> int:
        """The fewest rows that are computed together: of a micro-batch's chunk."""
        return self.train.batch_size // (self.runtime.micro_batches * self.runtime.vocab_chunks)

    def check(self) -> None:
        self.require(
            self.model.position == "rope" or self.data.length <= self.model.max_position_embeddings,
            f"rows of {self.data.length} tokens do not fit {self.model.max_position_embeddings} learned positions: "
            "shorten data.length or raise model.max_position_embeddings",
        )
        self.require(
            self.train.batch_size % self.runtime.micro_batches == 0,
            f"a batch of {self.train.batch_size} rows cannot be cut into {self.runtime.micro_batches} micro-batches",
        )
        rows = self.train.batch_size // self.runtime.micro_batches
        self.require(
            rows % self.runtime.vocab_chunks == 0,
            f"the {rows} rows of a micro-batch cannot be cut into {self.runtime.vocab_chunks} chunks: mend "
            "runtime.vocab_chunks, runtime.micro_batches or train.batch_size",
        )
        self.require(
            not self.optimizer.per_network or self.model.embedding_sharing in ("none", "gdes"),
            f"one optimizer per network needs embedding_sharing none or gdes, not {self.model.embedding_sharing!r}, "
            "because a shared parameter would belong to both",
        )
        size = generator_model(self).embedding_size
        self.require(
            size == self.model.embedding_size or self.model.embedding_sharing == "none",
            f"embeddings of {size} and {self.model.embedding_size} cannot be shared: leave generator.embedding_size "
            "out, or set model.embedding_sharing none",
        )


@dataclass(frozen=True, kw_only=True)
class PrepareConfig(Settings):
    """How documents become a data set of rows."""

    corpus: tuple[str, ...] = ("docstrings",)
    out: Path
    length: int = 128
    # isolated: several examples a row, kept apart by segment ids; concat: full rows across documents;
    # reference: the paper's A/B examples, one a row, padded.
    packing: Literal["isolated", "concat", "reference"] = "isolated"
    tokenizer: Literal["sentencepiece", "wordpiece"] = "sentencepiece"
    tokenizer_file: Path | None = None  # a SentencePiece .model or a WordPiece vocab.txt, instead of training one
    vocab_size: int = 30522  # of a tokenizer trained here
    lower_case: bool = True
    strip_accents: bool | None = None  # None: as lower_case
    sample_mb: int = 20  # text the tokenizer is trained on
    valid_share: float = 0.01  # of the documents
    field: str = "text"  # of JSONL records
    document_per_file: bool = False  # each .txt file is one document, blank lines and all
    skip_bad: bool = False  # count and go on where a line or file cannot be read
    seed: int = 0
    workers: int | None = None  # processes; None: one a core

    def check(self) -> None:
        self.require(bool(self.corpus), "name at least one corpus")
        self.require(8 <= self.length <= 65536, f"length must be 8 to 65,536 tokens, not {self.length}")
        self.require(self.vocab_size >= 32, f"vocab_size must be at least 32, not {self.vocab_size}")
        self.require(self.sample_mb >= 1, f"sample_mb must be at least 1, not {self.sample_mb}")
        self.require(0 <= self.valid_share < 1, f"valid_share must be in [0, 1), not {self.valid_share}")
        self.require(self.workers is None or self.workers >= 1, f"workers must be at least 1, not {self.workers}")


def generator_model(config: PretrainConfig) -> ModelConfig:
    """The generator's own sizes: hidden and FFN times the width, layers times the depth, heads = hidden / 64 or 1.

    Where there is no discriminator, the one network has the model's size (BERT) and `generator` no say.
    """
    model, generator = config.model, config.generator
    if not config.objective.has_discriminator:
        return model
    hidden = max(1, round(model.hidden_size * generator.width_fraction))
    return dataclasses.replace(
        model,
        hidden_size=hidden,
        intermediate_size=max(1, round(model.intermediate_size * hidden / model.hidden_size)),
        num_hidden_layers=max(1, round(model.num_hidden_layers * generator.depth_fraction)),
        num_attention_heads=generator.num_attention_heads or max(1, hidden // 64),
        embedding_size=generator.embedding_size or model.embedding_size,
    )


def num_slots(objective: ObjectiveConfig, length: int) -> int:
    """Masked slots held ready for each row: int((mask_prob + .005) · length), as the published code has it."""
    return max(1, int((objective.mask_prob + 0.005) * length))


def read_config(path: Path) -> PretrainConfig:
    """Reads a run's `config.json`. Raises UserError where it is missing or damaged."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path.parent} is not a run: it has no {path.name}") from None
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    return from_json(PretrainConfig, values, str(path))


def differences(old: PretrainConfig, new: PretrainConfig) -> list[str]:
    """The result-changing settings that differ, as `group.name: old → new`."""

    def flat(settings: Settings, prefix: str = "") -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name in typing.get_type_hints(type(settings)):
            value = getattr(settings, name)
            if isinstance(value, RuntimeConfig):
                continue
            found |= flat(value, f"{prefix}{name}.") if isinstance(value, Settings) else {prefix + name: value}
        return found

    before, after = flat(old), flat(new)
    if None not in (before["train.init_from"], after["train.init_from"]):
        after["train.init_from"] = before["train.init_from"]  # where the weights lie today is no setting of the result
    return [f"{key}: {before[key]} → {after[key]}" for key in before if before[key] != after[key]]
