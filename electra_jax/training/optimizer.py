"""From settings to one optax transformation: clip → Adam or Muon → decoupled decay → schedule.

Every parameter is named in exactly one of the tables below, or the optimizer refuses to be built.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
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
        optax.scale_by_adam(config.b1, config.b2, config.eps)
        if config.bias_correction
        else scale_by_adam_uncorrected(config.b1, config.b2, config.eps),
        optax.add_decayed_weights(
            config.weight_decay, lambda params: decay_mask(params, config.decay_norms_and_biases)
        ),
        optax.scale_by_learning_rate(lambda count: config.learning_rate * schedule(count)),
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
