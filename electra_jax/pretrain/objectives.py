"""What is learned from a batch: (model, params, inputs, keys) → losses as (sum, weight)."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, Key

from electra_jax.config import ObjectiveConfig, SpecialTokens
from electra_jax.model.dropout import create_seeds
from electra_jax.model.electra import Electra
from electra_jax.model.inputs import Inputs
from electra_jax.pretrain import health
from electra_jax.pretrain.corruption import Masking, RowKeys, choose_and_mask, count_slots, replace, sample
from electra_jax.pretrain.groups import map_rows

Params = dict[str, dict]


class Mean(NamedTuple):
    """A mean before its division: sums add up over micro-batches, devices and steps; divide once, at the end."""

    sum: Float[Array, ""]
    weight: Float[Array, ""]


class Predictions(NamedTuple):
    """What is read off the generator's scores of the vocabulary, which are not kept."""

    loss: Float[Array, "b s"]  # cross-entropy of the original token
    is_right: Bool[Array, "b s"]  # whether that token scores highest
    entropy: Float[Array, "b s"] | None  # None in training
    drawn: Int[Array, "b s"] | None  # None where no discriminator reads it


class Outputs(NamedTuple):
    """What an objective computed; the RTD fields and the draws are None under `mlm`."""

    masking: Masking
    mlm_loss: Mean
    mlm_accuracy: Mean
    generator_entropy: Mean | None = None  # also None in training
    drawn: Int[Array, "b s"] | None = None
    corrupted: Int[Array, "b l"] | None = None
    rtd_logits: Float[Array, "b l"] | None = None
    is_replaced: Bool[Array, "b l"] | None = None
    rtd_loss: Mean | None = None


class Weights(NamedTuple):
    """The losses' denominators over a whole batch, known before any forward pass."""

    mlm: Float[Array, ""]
    rtd: Float[Array, ""]


class Objective(NamedTuple):
    """All that a run asks of its objective."""

    compute: Callable[[Electra, Params, Inputs, RowKeys, ObjectiveConfig, SpecialTokens, bool], Outputs]
    # The weights of `compute`'s losses; a test holds the one against the other.
    count_weights: Callable[[Inputs, ObjectiveConfig, SpecialTokens], Weights]
    train_metrics: tuple[str, ...]
    # The held-out metric by which a run's best checkpoint is chosen, and whether high is good.
    best: tuple[str, bool]


def electra(
    model: Electra,
    params: Params,
    inputs: Inputs,
    keys: RowKeys,
    objective: ObjectiveConfig,
    special: SpecialTokens,
    train: bool,
) -> Outputs:
    """Replaced-token detection (paper, section 3.1): mask, generate, replace, detect."""
    outputs = mlm(model, params, inputs, keys, objective, special, train)
    assert outputs.drawn is not None
    corrupted, is_replaced = replace(inputs, outputs.masking, outputs.drawn)
    seeds = create_seeds(keys.discriminator_dropout) if train else None
    logits: Array = model.apply({"params": params}, corrupted, seeds, method=Electra.rtd_logits)  # type: ignore[assignment]
    loss = rtd_loss(logits, is_replaced, rtd_mask(inputs, objective, special))
    return outputs._replace(corrupted=corrupted.ids, rtd_logits=logits, is_replaced=is_replaced, rtd_loss=loss)


def mlm(
    model: Electra,
    params: Params,
    inputs: Inputs,
    keys: RowKeys,
    objective: ObjectiveConfig,
    special: SpecialTokens,
    train: bool,
) -> Outputs:
    """Masked language modelling (BERT), which is also the generator's half of `electra`, its draws included."""
    masking = choose_and_mask(inputs, keys, objective, special)
    masked = inputs._replace(ids=masking.ids)
    seeds = create_seeds(keys.generator_dropout) if train else None
    states: Array = model.apply({"params": params}, masked, masking.slots, seeds, method=Electra.mlm_states)  # type: ignore[assignment]

    def predict(logits: Float[Array, "b s v"], labels: Int[Array, "b s"], keys: Key[Array, " b"]) -> Predictions:
        return Predictions(
            loss=cross_entropy(logits, labels),
            is_right=jnp.argmax(logits, axis=-1) == labels,
            entropy=None if train else health.entropy(logits),
            drawn=sample(logits, keys, objective) if objective.has_discriminator else None,
        )

    predicted: Predictions = read_logits(predict, model, params, states, masking.labels, keys.sample)
    used = masking.slot_mask
    return Outputs(
        masking=masking,
        mlm_loss=mean(predicted.loss, used),
        mlm_accuracy=mean(predicted.is_right, used),
        generator_entropy=None if predicted.entropy is None else mean(predicted.entropy, used),
        drawn=predicted.drawn,
    )


def read_logits(
    read: Callable[..., Any], model: Electra, params: Params, states: Float[Array, "b s e"], *rows: Any
) -> Any:
    """read(scores of the vocabulary [batch, slots, vocab], *rows), whose results have a row for each of theirs.

    The scores are a step's largest array; with several `runtime.vocab_chunks` they never exist whole.
    """

    def read_rows(states: Float[Array, "b s e"], *rows: Any) -> Any:
        return read(model.apply({"params": params}, states, method=Electra.vocabulary_logits), *rows)

    return map_rows(read_rows, model.kernels.vocab_chunks, states, *rows)


def mean(values: Float[Array, "b n"] | Bool[Array, "b n"], mask: Bool[Array, "b n"]) -> Mean:
    """Over the values that the mask keeps, of the whole batch."""
    return Mean(jnp.where(mask, values, 0.0).sum(), mask.sum(dtype=jnp.float32))


def cross_entropy(logits: Float[Array, "b s v"], labels: Int[Array, "b s"]) -> Float[Array, "b s"]:
    """−log p of the original token at each slot."""
    at_label = jnp.take_along_axis(logits, labels[..., None], axis=-1, mode="fill")[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - at_label


def rtd_mask(inputs: Inputs, objective: ObjectiveConfig, special: SpecialTokens) -> Bool[Array, "b l"]:
    """The tokens of the original rows that the RTD loss covers.

    All real ones, [CLS] and [SEP] included (published code); without `rtd_special_tokens` all but those two.
    """
    if objective.rtd_special_tokens:
        return inputs.attention_mask
    return inputs.attention_mask & (inputs.ids != special.cls) & (inputs.ids != special.sep)


def rtd_loss(logits: Float[Array, "b l"], is_replaced: Bool[Array, "b l"], mask: Bool[Array, "b l"]) -> Mean:
    """Sigmoid cross-entropy over the tokens that the mask keeps (paper, section 3.1)."""
    # −log σ(x) for the replaced, −log σ(−x) for the original: softplus keeps both finite at any logit.
    return mean(jax.nn.softplus(jnp.where(is_replaced, -logits, logits)), mask)


def count_slots_and_tokens(inputs: Inputs, objective: ObjectiveConfig, special: SpecialTokens) -> Weights:
    """Masked slots and detected tokens of a batch; at least one, so that an empty batch divides by no zero."""
    slots = count_slots(inputs, objective, special).sum(dtype=jnp.float32)
    tokens = rtd_mask(inputs, objective, special).sum(dtype=jnp.float32)
    return Weights(jnp.maximum(slots, 1.0), jnp.maximum(tokens, 1.0))


def total_loss(outputs: Outputs, weights: Weights, objective: ObjectiveConfig) -> Float[Array, ""]:
    """gen_weight · MLM + disc_weight · RTD (paper, section 3.1), each over the given denominators."""
    loss = objective.gen_weight * outputs.mlm_loss.sum / weights.mlm
    if outputs.rtd_loss is not None:
        loss += objective.disc_weight * outputs.rtd_loss.sum / weights.rtd
    return loss


OBJECTIVES = {
    "electra": Objective(
        electra,
        count_slots_and_tokens,
        train_metrics=("loss", "mlm_loss", "mlm_accuracy", "rtd_loss", "grad_norm"),
        # Not the AUC against the run's own generator, which falls as the generator improves.
        best=("rtd_auc_unigram", True),
    ),
    "mlm": Objective(
        mlm,
        count_slots_and_tokens,
        train_metrics=("loss", "mlm_loss", "mlm_accuracy", "grad_norm"),
        best=("mlm_loss", False),
    ),
}
