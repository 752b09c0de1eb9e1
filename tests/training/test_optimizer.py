import dataclasses
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_models import TINY, assert_trees_close, assert_trees_equal, make_config, make_params, quick_jit

from electra_jax.config import OptimizerConfig
from electra_jax.model.electra import create_params
from electra_jax.presets import load_preset
from electra_jax.training.optimizer import decay_mask, make_optimizer, make_schedule, network_of

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))
SHAPES = {
    "embeddings": {"word_embeddings": (7, 4), "layer_norm": {"scale": (4,), "bias": (4,)}},
    "discriminator_encoder": {"layer": {"dense": {"kernel": (2, 4, 6), "bias": (2, 6)}}},
}
DECAYED = {"word_embeddings", "kernel"}


def draw(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return jax.tree.map(lambda shape: scale * rng.normal(size=shape), SHAPES, is_leaf=lambda x: isinstance(x, tuple))


def factor(config, update, steps):
    """The schedule as a sentence: from update 0, min(1, update / warm-up) × decay."""
    warm = min(1.0, update / config.warmup_steps) if config.warmup_steps else 1.0
    start = 0 if config.decay_in_warmup else config.warmup_steps
    done = max(0.0, (update - start) / (steps - start))
    return warm * ((1 - done) if config.schedule == "linear" else 0.5 * (1 + np.cos(np.pi * done)))


def reference(config, params, gradients, steps, first=0):
    """Clip → Adam → decoupled decay → schedule, written out leaf by leaf in float64, from update `first` on."""
    leaves, tree = jax.tree.flatten(params)
    names = [path[-1].key for path, _ in jax.tree_util.tree_leaves_with_path(params)]
    decayed = DECAYED | {"scale", "bias"} if config.decay_norms_and_biases else DECAYED
    m, v = [np.zeros_like(leaf) for leaf in leaves], [np.zeros_like(leaf) for leaf in leaves]
    clipped = 0
    for update, grads in enumerate(gradients):
        grads = jax.tree.leaves(grads)
        norm = np.sqrt(sum((g**2).sum() for g in grads))
        clipped += norm > config.clip_norm
        rate = config.learning_rate * factor(config, first + update, steps)
        for i, g in enumerate(grads):
            g = g * min(1.0, config.clip_norm / norm)
            m[i] = config.b1 * m[i] + (1 - config.b1) * g
            v[i] = config.b2 * v[i] + (1 - config.b2) * g**2
            mean, square = m[i], v[i]
            if config.bias_correction:
                mean, square = mean / (1 - config.b1 ** (update + 1)), square / (1 - config.b2 ** (update + 1))
            step = mean / (np.sqrt(square) + config.eps)
            if names[i] in decayed:
                step = step + config.weight_decay * leaves[i]
            leaves[i] = leaves[i] - rate * step
    assert 0 < clipped < len(gradients)
    return jax.tree.unflatten(tree, leaves)


def descend(config, params, gradients, steps, first=0):
    tx = make_optimizer(config, steps)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), params)

    @quick_jit
    def one(params, state, grads):
        updates, state = tx.update(grads, state, params)
        return jax.tree.map(jnp.add, params, updates), state

    state = optax.tree.set(tx.init(params), count=jnp.asarray(first, jnp.int32))
    for grads in gradients:
        params, state = one(params, state, jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), grads))
    return params


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bias_correction": True, "decay_in_warmup": False},
        {"schedule": "cosine", "b1": 0.8, "b2": 0.95, "weight_decay": 0.1},
        {"warmup_steps": 0, "eps": 1e-3},
        {"decay_norms_and_biases": True, "weight_decay": 0.1},
    ],
    ids=["published", "paper", "cosine", "no warm-up", "everything decayed"],
)
def test_adam_equals_a_numpy_trace(changes):
    """50 updates from the first to the last, through warm-up and decay, the later ones clipped."""
    config = OptimizerConfig(**({"learning_rate": 1e-2, "warmup_steps": 10} | changes))
    gradients = [draw(seed, scale) for seed, scale in enumerate(np.geomspace(1e-3, 1, 50))]
    expected = reference(config, draw(99), gradients, 50)
    assert_trees_close(descend(config, draw(99), gradients, 50), expected, 1e-6)


@pytest.mark.parametrize("name", ["small", "small_plus_plus", "base", "large"])
@pytest.mark.parametrize("halfway", [False, True], ids=["end of the warm-up", "half of the run"])
def test_a_preset_s_own_optimizer_equals_a_numpy_trace(name, halfway):
    """50 updates at the preset's rates, across the end of its warm-up or the middle of its run."""
    preset = load_preset(CONFIGS[0].parent / f"{name}.py")
    config, steps = preset.optimizer, preset.train.steps
    first = (steps // 2 if halfway else config.warmup_steps) - 25
    gradients = [draw(seed, scale) for seed, scale in enumerate(np.geomspace(1e-3, 1, 50))]
    expected = reference(config, draw(99), gradients, steps, first)
    assert_trees_close(descend(config, draw(99), gradients, steps, first), expected, 1e-6)


@pytest.mark.parametrize(
    ("name", "rates"),
    [
        ("small", {0: 0.0, 5_000: 2.4875e-4, 10_000: 4.95e-4, 500_000: 2.5e-4, 1_000_000: 0.0}),
        ("base", {0: 0.0, 5_000: 9.9347e-5, 10_000: 1.97389e-4, 383_000: 1e-4, 766_000: 0.0}),
        ("large", {0: 0.0, 5_000: 9.875e-5, 10_000: 1.95e-4, 200_000: 1e-4, 400_000: 0.0}),
    ],
)
def test_the_presets_learning_rates(name, rates):
    """base · (1 − step / total) · min(1, step / warm-up), worked out by hand."""
    preset = load_preset(CONFIGS[0].parent / f"{name}.py")
    schedule = make_schedule(preset.optimizer, preset.train.steps)
    got = [preset.optimizer.learning_rate * float(schedule(jnp.asarray(step))) for step in rates]
    np.testing.assert_allclose(got, list(rates.values()), rtol=1e-5)


@pytest.mark.parametrize("decay_in_warmup", [True, False])
@pytest.mark.parametrize("schedule", ["linear", "cosine"])
def test_schedules(schedule, decay_in_warmup):
    config = OptimizerConfig(learning_rate=1.0, warmup_steps=20, schedule=schedule, decay_in_warmup=decay_in_warmup)
    got = jax.vmap(make_schedule(config, 100))(jnp.arange(101))
    np.testing.assert_allclose(got, [factor(config, update, 100) for update in range(101)], atol=1e-6)
    assert got[0] == 0
    assert abs(float(got[100])) < 1e-6
    published_peak = {"linear": 0.8, "cosine": 0.5 * (1 + np.cos(0.2 * np.pi))}[schedule]
    np.testing.assert_allclose(got[20], published_peak if decay_in_warmup else 1.0, rtol=1e-6)


@pytest.mark.parametrize("warmup_steps", [100, 200])
def test_a_run_shorter_than_its_warm_up_has_a_finite_rate(warmup_steps):
    for decay_in_warmup in (True, False):
        config = OptimizerConfig(learning_rate=1.0, warmup_steps=warmup_steps, decay_in_warmup=decay_in_warmup)
        rates = jax.vmap(make_schedule(config, 100))(jnp.arange(101))
        assert np.isfinite(rates).all()
        assert (np.asarray(rates) >= 0).all()
        assert float(rates.max()) <= 1


def every_form():
    """Each preset as it is, and the first with each way of sharing, of placing and of convolving."""
    for path in CONFIGS:
        yield load_preset(path)
    for sharing in ("none", "token", "all", "gdes"):
        for position in ("absolute", "rope"):
            yield make_config(model=TINY | {"embedding_sharing": sharing, "position": position})


@pytest.mark.parametrize("config", [*every_form()], ids=lambda c: f"{c.name}-{c.model.embedding_sharing}")
def test_every_parameter_is_decayed_or_not_by_name(config):
    params = jax.eval_shape(lambda: create_params(config, jax.random.key(0)))
    for path, decayed in jax.tree_util.tree_leaves_with_path(decay_mask(params)):
        name, names = path[-1].key, {entry.key for entry in path}
        is_norm = any(name.endswith("layer_norm") for name in names)
        assert decayed == (name == "kernel" or name.endswith("embeddings")), path
        assert not (decayed and (is_norm or name == "bias"))
    # On demand all but the convolution's taps, which the paper does not have.
    for path, decayed in jax.tree_util.tree_leaves_with_path(decay_mask(params, norms_and_biases=True)):
        assert decayed == (path[-1].key != "taps"), path


def test_an_unknown_parameter_is_refused():
    with pytest.raises(KeyError, match="new_encoder/gate"):
        decay_mask({"new_encoder": {"gate": jnp.zeros(3)}})
    with pytest.raises(KeyError, match="gate"):
        make_optimizer(OptimizerConfig(learning_rate=1.0, warmup_steps=0), 10).init({"encoder": {"gate": jnp.zeros(3)}})


def muon_config(**changes):
    settings = {"name": "muon", "learning_rate": 1e-3, "muon_learning_rate": 1.0, "warmup_steps": 0,
                "weight_decay": 0.0, "clip_norm": 1e9, "bias_correction": True}  # fmt: skip
    return OptimizerConfig(**(settings | changes))


@pytest.fixture(scope="module")
def muon_update():
    """One Muon step, split by network, over random gradients: (gradients, updates)."""
    config = make_config(model=TINY)
    params = make_params(config)
    tx = make_optimizer(muon_config(per_network=True), 10)
    grads = make_params(config, seed=1)
    updates, _ = quick_jit(lambda grads: tx.update(grads, tx.init(params), params))(grads)
    return jax.device_get((grads, updates))


def test_muon_orthogonalises_each_hidden_matrix_of_each_layer_and_nothing_else(muon_update):
    grads, updates = muon_update
    found = set()
    for path, update in jax.tree_util.tree_leaves_with_path(updates):
        names = [entry.key for entry in path]
        grad = grads
        for name in names:
            grad = grad[name]
        if names[-1] != "kernel" or "dense_prediction" in names:
            # Adam's first, corrected step: the gradient's sign (but for eps), at Adam's rate.
            np.testing.assert_allclose(update, -1e-3 * grad / (np.abs(grad) + 1e-6), rtol=1e-4, err_msg="/".join(names))
            continue
        found.add(names[-2])
        for matrix, of in zip(
            update.reshape(-1, *update.shape[-2:]), grad.reshape(-1, *update.shape[-2:]), strict=True
        ):
            singular = np.linalg.svd(matrix, compute_uv=False)
            # Five Newton–Schulz steps bring every singular value near 1, times √max(1, rows' share of columns).
            scale = np.sqrt(max(1, matrix.shape[1] / matrix.shape[0]))
            assert (singular > 0.3 * scale).all(), names
            assert (singular < 1.4 * scale).all(), names
            assert (matrix * of).sum() < 0, names
    assert found == {"query", "key", "value", "output", "intermediate", "dense", "embeddings_project"}


def test_muon_takes_each_layer_by_itself():
    """The update of one layer must not change with another layer's gradient."""
    params = {"encoder": {"layer": {"kernel": jnp.zeros((2, 4, 6))}}}
    tx = make_optimizer(muon_config(), 10)
    grads = jax.random.normal(jax.random.key(0), (2, 4, 6))
    other = grads.at[1].multiply(jnp.arange(1.0, 7.0))

    @quick_jit
    def update(grads):
        return tx.update({"encoder": {"layer": {"kernel": grads}}}, tx.init(params), params)[0]

    first, second = (update(g)["encoder"]["layer"]["kernel"] for g in (grads, other))
    np.testing.assert_array_equal(first[0], second[0])
    assert (np.asarray(first[1]) != np.asarray(second[1])).any()


@pytest.mark.parametrize("name", ["adam", "muon"])
def test_with_one_optimizer_per_network_one_network_s_gradients_do_not_clip_the_other_s(name):
    config = make_config(model=TINY | {"convolution_width": 0}, generator={"depth_fraction": 0.5})
    params, grads = make_params(config), make_params(config, seed=1)
    loud = {name: jax.tree.map(lambda g: g * 1e3, tree) if name.startswith("discriminator") else tree
            for name, tree in grads.items()}  # fmt: skip

    def update(per_network):
        settings = {"per_network": per_network, "clip_norm": 1.0, "eps": 1.0, "learning_rate": 1.0}
        tx = make_optimizer(muon_config(name=name, **settings), 10)
        return quick_jit(lambda grads: tx.update(grads, tx.init(params), params)[0])

    apart = update(True)
    quiet, shouted = apart(grads), apart(loud)
    own = {name for name in params if not name.startswith("discriminator")}
    assert own == {"embeddings", "generator_encoder", "generator_predictions"}
    assert_trees_equal({n: quiet[n] for n in own}, {n: shouted[n] for n in own})
    if name == "adam":
        together = update(False)
        difference = together(grads)["embeddings"]["word_embeddings"] - together(loud)["embeddings"]["word_embeddings"]
        assert float(jnp.abs(difference).max()) > 1e-3


def test_each_parameter_belongs_to_one_network():
    params = jax.eval_shape(lambda: create_params(make_config(model=TINY), jax.random.key(0)))
    networks = {path[0].key: network_of(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    assert networks == {
        "embeddings": "generator",
        "generator_encoder": "generator",
        "generator_predictions": "generator",
        "discriminator_embeddings": "discriminator",
        "discriminator_encoder": "discriminator",
        "discriminator_predictions": "discriminator",
    }


def test_decay_is_decoupled():
    """Where the gradient is zero, a decayed parameter shrinks by rate · decay and another stays."""
    config = dataclasses.replace(OptimizerConfig(learning_rate=0.5, warmup_steps=0), weight_decay=0.1)
    zero = jax.tree.map(np.zeros_like, draw(0))
    after = descend(config, draw(0), [zero], 10**9)
    before = draw(0)
    np.testing.assert_allclose(
        after["embeddings"]["word_embeddings"], 0.95 * before["embeddings"]["word_embeddings"], rtol=1e-6
    )
    np.testing.assert_allclose(after["embeddings"]["layer_norm"]["scale"], before["embeddings"]["layer_norm"]["scale"])
