"""Which networks there are and how large, whatever trained them: all that a use of them needs to know."""

from dataclasses import dataclass
from typing import Literal

from electra_jax.config import ModelConfig, PretrainConfig, Sharing, generator_model
from electra_jax.settings import Settings

# The settings in which two networks must agree to share so much of their embeddings.
MUST_AGREE: dict[Sharing, tuple[str, ...]] = {
    "none": (),
    "token": ("vocab_size", "embedding_size"),
    "gdes": ("vocab_size", "embedding_size", "max_position_embeddings"),
    "all": ("vocab_size", "embedding_size", "max_position_embeddings", "type_vocab_size", "layer_norm_eps"),
}
Task = Literal["sequence_classification", "token_classification", "question_answering"]
# Hugging Face's classes, or the paper's as its published code has them.
HeadForm = Literal["huggingface", "paper"]


@dataclass(frozen=True, kw_only=True)
class TaskConfig(Settings):
    """The head of a fine-tuned discriminator."""

    name: Task
    labels: tuple[str, ...]  # of the outputs, in their order; start and end for question answering
    # How a sequence's outputs are read.
    problem_type: Literal["regression", "single_label_classification", "multi_label_classification"] | None = None
    # None: the encoder's; in the paper's form none but for sequences. Hugging Face's question answering has no place
    # for it.
    dropout: float | None = None
    form: HeadForm = "huggingface"
    answerability: bool = False  # a part of its own for questions without an answer (SQuAD 2.0)

    def check(self) -> None:
        self.require(len(self.labels) >= 1, "a head needs at least one label")
        self.require(
            self.name != "question_answering" or len(self.labels) == 2,
            f"question answering has two outputs, start and end, not {len(self.labels)}",
        )
        self.require(
            self.problem_type != "single_label_classification" or len(self.labels) > 1,
            "a choice among labels needs two of them at least",
        )
        self.require(
            self.dropout is None or 0 <= self.dropout < 1, f"a head's dropout must be in [0, 1), not {self.dropout}"
        )
        self.require(
            not self.answerability or self.scores_spans_jointly,
            f"answerability belongs to question answering in form 'paper', not to {self.name} in form {self.form!r}",
        )

    @property
    def scores_spans_jointly(self) -> bool:
        """Whether ends are scored given a start, so that there is no one score a token."""
        return self.name == "question_answering" and self.form == "paper"

    def dropout_in(self, encoder: ModelConfig) -> float:
        """The rate before the head's matrices on top of this encoder."""
        if self.dropout is not None:
            return self.dropout
        return 0.0 if self.form == "paper" and self.name != "sequence_classification" else encoder.hidden_dropout_prob


@dataclass(frozen=True, kw_only=True)
class NetworksConfig(Settings):
    """The networks of a model. Where there are both, the discriminator's `embedding_sharing` says what is one array."""

    discriminator: ModelConfig | None = None
    generator: ModelConfig | None = None
    task: TaskConfig | None = None  # in the place of the discriminator's own head

    def check(self) -> None:
        self.require(self.discriminator is not None or self.generator is not None, "there must be a network")
        self.require(self.task is None or self.discriminator is not None, "a task's head needs a discriminator")
        if self.discriminator is not None and self.generator is not None:
            for name in MUST_AGREE[self.sharing]:
                ours, theirs = getattr(self.discriminator, name), getattr(self.generator, name)
                self.require(ours == theirs, f"{name} is {ours} and {theirs}, but the embeddings are shared")

    @property
    def sharing(self) -> Sharing:
        """What the two networks share; a network that is alone has its embeddings to itself."""
        if self.discriminator is None or self.generator is None:
            return "all"
        return self.discriminator.embedding_sharing

    @property
    def each(self) -> dict[str, ModelConfig]:
        """The networks that there are, by name."""
        found = {"generator": self.generator, "discriminator": self.discriminator}
        return {name: sizes for name, sizes in found.items() if sizes is not None}

    @property
    def main(self) -> ModelConfig:
        """The network that a user wants: the discriminator, or the generator where it is all there is."""
        return self.each.get("discriminator") or self.each["generator"]


def networks_of(config: PretrainConfig) -> NetworksConfig:
    """The networks that a pre-training run trains."""
    if not config.objective.has_discriminator:
        return NetworksConfig(generator=config.model)
    return NetworksConfig(discriminator=config.model, generator=generator_model(config))
