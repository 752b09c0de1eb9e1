"""The state of a training run: everything that a checkpoint must hold and a step replaces."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int


class TrainState(NamedTuple):
    """A NamedTuple, so that trees of shapes or shardings of the same form stay possible."""

    step: Int[Array, ""]  # batches consumed; also the position in the data
    params: Any
    opt_state: Any
    window: dict[str, Float[Array, "2"]]  # (sum, weight) of each training metric since the last log line
    bad_steps: Int[Array, ""]  # updates skipped in a row
    skipped: Int[Array, ""]  # updates skipped in all


def create_state(params: Any, tx: optax.GradientTransformation, metrics: tuple[str, ...]) -> TrainState:
    """Step 0 of a run."""
    step, bad_steps, skipped = (jnp.zeros((), jnp.int32) for _ in range(3))  # arrays of their own: all are donated
    window = {name: jnp.zeros(2) for name in metrics}
    return TrainState(step, params, tx.init(params), window, bad_steps, skipped)


def apply_gradients(
    state: TrainState, grads: Any, tx: optax.GradientTransformation, stats: dict[str, Float[Array, "2"]], log_every: int
) -> TrainState:
    """One update, or none where a gradient or a metric is NaN or infinite: then only the counters move.

    `stats` are added to the window, which starts anew after each `log_every` steps.
    """
    # A label outside the vocabulary makes the loss NaN but leaves its gradient finite.
    finite = jnp.isfinite(optax.tree.norm(grads)) & jnp.isfinite(jnp.stack([*stats.values()])).all()

    def update() -> tuple[Any, Any]:
        updates, opt_state = tx.update(grads, state.opt_state, state.params)
        return optax.apply_updates(state.params, updates), opt_state

    params, opt_state = jax.lax.cond(finite, update, lambda: (state.params, state.opt_state))
    keep = (state.step % log_every != 0).astype(jnp.float32)
    window = {name: state.window[name] * keep + jnp.where(finite, stats[name], jnp.zeros(2)) for name in state.window}
    return TrainState(
        step=state.step + 1,
        params=params,
        opt_state=opt_state,
        window=window,
        bad_steps=jnp.where(finite, 0, state.bad_steps + 1),
        skipped=state.skipped + jnp.where(finite, 0, 1),
    )
