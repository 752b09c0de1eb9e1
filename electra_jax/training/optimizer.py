"""From settings to one optax transformation: clip → Adam or Muon → decoupled decay → schedule.

Every parameter is named in exactly one of the tables below, or the optimizer refuses to be built.
"""

from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Int
from optax.contrib import MuonDimensionNumbers, muon

from electra_jax.config import OptimizerConfig

# Leaf names of the parameters. Embeddings are decayed, LayerNorm and biases only on demand (published code).
DECAYED = {"kernel", "word_embeddings", "position_embeddings", "token_type_embeddings"}
NORMS_AND_BIASES = {"scale", "bias"}
NOT_DECAYED = {"taps"}
# Modules whose kernel is an output table or a vector, and so stays with Adam under Muon.
NOT_HIDDEN = {"dense_prediction"}
# How far below the head a network's top layer is (electra issues 51 and 64): the paper's text says one step of the
# decay, its code takes two.
LayerDecay = Literal["paper", "google"]
STEPS_TO_TOP: dict[LayerDecay, int] = {"paper": 1, "google": 2}
# Where a fine-tuned discriminator's parameters are, by the first names of their paths.
PLACES: dict[tuple[str, ...], Literal["embeddings", "layers", "top", "head"]] = {
    ("embeddings",): "embeddings",
    ("discriminator_encoder", "embeddings_project"): "embeddings",
    ("discriminator_encoder", "layer"): "layers",
    ("discriminator_encoder", "layer_norm"): "top",  # after the last layer of norm `pre`
    ("task_head",): "head",
}


def make_schedule(config: OptimizerConfig, steps: int) -> optax.Schedule:
    """The learning rate's factor by update, from 0: min(1, update / warm-up) × decay.

    The published code's linear decay, 1 − update / total, runs through the warm-up already; without
    `decay_in_warmup` it begins where the warm-up ends.
    """

    def factor(count: Int[Array, ""]) -> Float[Array, ""]:
        update = jnp.asarray(count, jnp.float32)
        warm = jnp.minimum(1.0, update / config.warmup_steps) if config.warmup_steps else 1.0
        start = 0 if config.decay_in_warmup else min(config.warmup_steps, steps - 1)
        done = jnp.clip((update - start) / (steps - start), 0.0, 1.0)
        decay = 1.0 - done if config.schedule == "linear" else 0.5 * (1.0 + jnp.cos(jnp.pi * done))
        return warm * decay

    return factor


def make_optimizer(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    """The whole update. With `per_network`, each network has its own clip and its own state."""
    update = optax.chain(optax.clip_by_global_norm(config.clip_norm), _update_rule(config, steps))
    if not config.per_network:
        return update
    networks = {"generator": update, "discriminator": update}
    return optax.partition(networks, lambda params: jax.tree_util.tree_map_with_path(network_of, params))


def _update_rule(config: OptimizerConfig, steps: int) -> optax.GradientTransformation:
    schedule = make_schedule(config, steps)
    adam = optax.chain(
        *_adam_with_decay(config), optax.scale_by_learning_rate(lambda count: config.learning_rate * schedule(count))
    )
    if config.name == "adam":
        return adam
    hidden = muon(
        lambda count: config.muon_learning_rate * schedule(count),
        ns_steps=config.muon_steps,
        beta=config.muon_momentum,
        weight_decay=config.weight_decay,
        muon_weight_dimension_numbers=lambda params: jax.tree.map(_matrix_axes, params),
    )
    labels = {True: "muon", False: "adam"}
    return optax.partition(
        {"muon": hidden, "adam": adam},
        lambda params: jax.tree_util.tree_map_with_path(lambda path, _: labels[_is_hidden_matrix(path)], params),
    )


def _adam_with_decay(config: OptimizerConfig) -> tuple[optax.GradientTransformation, ...]:
    return (
        optax.scale_by_adam(config.b1, config.b2, config.eps)
        if config.bias_correction
        else scale_by_adam_uncorrected(config.b1, config.b2, config.eps),
        optax.add_decayed_weights(
            config.weight_decay, lambda params: decay_mask(params, config.decay_norms_and_biases)
        ),
    )


def make_finetune_optimizer(
    config: OptimizerConfig, steps: int, layer_decay: float, form: LayerDecay
) -> optax.GradientTransformation:
    """clip → Adam → decoupled decay → layer-wise decay → schedule, without the learning rate.

    The updates are to be added times the learning rate, which is each member's own and not read off `config`. Weight
    decay shrinks with the rate of its layer (published code). Adam only, on a discriminator with a task's head.
    """
    schedule = make_schedule(config, steps)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        *_adam_with_decay(config),
        optax.stateless(
            lambda updates, _: jax.tree.map(jnp.multiply, updates, layer_scales(updates, layer_decay, form))
        ),
        optax.scale_by_schedule(lambda count: -schedule(count)),
    )


def layer_scales(params: Any, decay: float, form: LayerDecay) -> Any:
    """What each parameter's learning rate is multiplied by, to be broadcast: 1 at the head, less with each layer below.

    Of L layers, the top one has decay¹, the first decay^L and the embeddings decay^(L+1); in form `google` each one
    more. Raises KeyError for a parameter that is neither in a layer nor named.
    """
    layers = len(jax.tree.leaves(params["discriminator_encoder"]["layer"])[0])
    to_top = STEPS_TO_TOP[form]
    steps = {"embeddings": layers + to_top, "top": to_top, "head": 0}

    def scale(path: tuple, leaf: Any) -> Float[np.ndarray, "*s"]:
        names = tuple(_names(path))
        place = PLACES.get(names[:1]) or PLACES.get(names[:2])
        if place is None:
            raise KeyError(f"in which layer is {'/'.join(names)}? Name it in training/optimizer.py")
        if place != "layers":
            return np.asarray(decay ** steps[place], np.float32)
        below_head = np.arange(layers - 1, -1, -1) + to_top
        return np.asarray(decay**below_head, np.float32).reshape(-1, *(1,) * (leaf.ndim - 1))

    return jax.tree_util.tree_map_with_path(scale, params)


def decay_mask(params: Any, norms_and_biases: bool = False) -> Any:
    """True where weight decay applies. Raises KeyError for a parameter that no table names."""
    decayed = DECAYED | NORMS_AND_BIASES if norms_and_biases else DECAYED

    def is_decayed(path: tuple, _: Any) -> bool:
        name = _names(path)[-1]
        if name not in DECAYED | NORMS_AND_BIASES | NOT_DECAYED:
            raise KeyError(f"is {'/'.join(_names(path))} decayed? Name it in training/optimizer.py")
        return name in decayed

    return jax.tree_util.tree_map_with_path(is_decayed, params)


def network_of(path: tuple, _: Any = None) -> str:
    """The network that owns a parameter; what both read belongs to the generator."""
    return "discriminator" if _names(path)[0].startswith("discriminator") else "generator"


class UncorrectedAdamState(NamedTuple):
    """The two moments."""

    mu: Any
    nu: Any


def scale_by_adam_uncorrected(b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """Adam's m / (√v + eps) without bias correction, as the published code's optimizer has it."""

    def init(params: Any) -> UncorrectedAdamState:
        return UncorrectedAdamState(optax.tree.zeros_like(params), optax.tree.zeros_like(params))

    def update(grads: Any, state: UncorrectedAdamState, params: Any = None) -> tuple[Any, UncorrectedAdamState]:
        mu = optax.tree.update_moment(grads, state.mu, b1, 1)
        nu = optax.tree.update_moment(grads, state.nu, b2, 2)
        updates = jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu)
        return updates, UncorrectedAdamState(mu, nu)

    return optax.GradientTransformation(init, update)


def _is_hidden_matrix(path: tuple) -> bool:
    names = _names(path)
    return names[-1] == "kernel" and not NOT_HIDDEN & set(names)


def _matrix_axes(leaf: Array) -> MuonDimensionNumbers:
    # Stacked layers are matrices with a leading axis.
    return MuonDimensionNumbers((leaf.ndim - 2,), (leaf.ndim - 1,))


def _names(path: tuple) -> list[str]:
    return [str(entry.key) for entry in path]
