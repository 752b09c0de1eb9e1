import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny_models import (
    SPECIAL,
    TINY,
    assert_trees_close,
    assert_trees_equal,
    make_config,
    make_keys,
    make_params,
    make_rows,
    make_run,
    quick_jit,
    quick_options,
)

from electra_jax.config import MeshConfig
from electra_jax.model.electra import create_model
from electra_jax.model.inputs import create_inputs
from electra_jax.pretrain.step import accumulate_gradients
from electra_jax.training import sharding
from electra_jax.training.state import apply_gradients, create_state


@pytest.fixture(scope="module")
def compiled():
    """The paper's form with dropout: its settings, a fresh state and the compiled step."""
    config = make_config(runtime={"log_every": 3})
    state, step = make_run(config)
    return config, state, quick_jit(step)


@pytest.mark.parametrize(
    "objective",
    [{}, {"masked_positions": "with_replacement", "rtd_special_tokens": False}],
    ids=["default", "with replacement, without special tokens"],
)
def test_accumulated_gradients_equal_the_full_batch_s(objective):
    """Rows of differing lengths, so that means of means would be wrong, and dropout, whose draws are a row's own.

    The parts' vocabulary scores are made in chunks, too.
    """

    def gradients(**runtime):
        config = make_config(objective=objective, runtime=runtime)
        inputs = create_inputs(jnp.asarray(make_rows(0)), SPECIAL)
        model = create_model(config)
        accumulate = quick_jit(
            lambda params: accumulate_gradients(params, inputs, make_keys(8), config, model, SPECIAL)
        )
        return accumulate(make_params(config))

    (whole, stats), (parts, part_stats) = gradients(), gradients(micro_batches=4, vocab_chunks=2)
    assert_trees_close(parts, whole, 2e-6)
    assert stats.keys() == part_stats.keys()
    for name, value in stats.items():
        np.testing.assert_allclose(part_stats[name], value, rtol=2e-6, err_msg=name)


def test_what_is_recomputed_changes_no_gradient_and_saves_memory():
    """Beside the loop over layers that keeps everything; dropout is drawn again as it was."""

    def compile(**runtime):
        config = make_config(model={"num_hidden_layers": 6}, runtime={"unroll_layers": False} | runtime)
        model = create_model(config)

        def gradients(params, ids):
            return accumulate_gradients(params, create_inputs(ids, SPECIAL), make_keys(64), config, model, SPECIAL)

        rows = jnp.concatenate([jnp.asarray(make_rows(seed)) for seed in range(8)])
        compiled = jax.jit(gradients).lower(make_params(config), rows).compile(quick_options())
        return compiled(make_params(config), rows), compiled.memory_analysis().temp_size_in_bytes

    found = {remat: compile(remat=remat) for remat in ("none", "products", "layers")}
    (whole, stats), _ = found["none"]
    for (grads, other), _ in (found["products"], found["layers"]):
        assert_trees_close(grads, whole, 2e-6)
        assert_trees_close(other, stats, 2e-6)
    none, products, layers = (memory for _, memory in found.values())
    assert products < 0.8 * none
    assert layers < 0.6 * products


MESHES = {
    "1 device": (1, {}, 1, 1),
    "2 devices": (2, {"data": 2}, 1, 1),
    "4 devices, 2 micro-batches": (4, {"data": 4}, 2, 1),
    "fsdp 2, tensor 2": (4, {"data": 1, "fsdp": 2, "tensor": 2}, 1, 1),
    "data 2, fsdp 2, 2 chunks": (4, {"data": 2, "fsdp": 2}, 1, 2),
}


@pytest.mark.slow
def test_meshes_agree(monkeypatch, capfd):
    """Also where the vocabulary does not divide: its table is cut along its features."""
    monkeypatch.setattr(sharding, "FSDP_MIN_SIZE", 64)
    results = {}
    for name, (count, axes, micro_batches, chunks) in MESHES.items():
        runtime = {"micro_batches": micro_batches, "vocab_chunks": chunks}
        config = make_config(model={"vocab_size": 51}, runtime=runtime)
        mesh = sharding.create_mesh(MeshConfig(**axes), 8 // (micro_batches * chunks), jax.devices()[:count])
        state, step = make_run(config)
        shardings = sharding.state_shardings(state, mesh)
        with jax.set_mesh(mesh):
            state = jax.device_put(state, shardings)
            step = quick_jit(step, out_shardings=(shardings, None), donate_argnums=0)
            for seed in range(3):
                state, out = step(state, sharding.place_batch(make_rows(seed), mesh))
        kernel = state.params["discriminator_encoder"]["layer"]["attention"]["query"]["kernel"]
        pieces = axes.get("fsdp", 1) * axes.get("tensor", 1)
        assert kernel.addressable_shards[0].data.size * pieces == kernel.size
        table = state.params["embeddings"]["word_embeddings"]
        assert table.addressable_shards[0].data.size * axes.get("fsdp", 1) == table.size
        assert "tensor" in axes or "Involuntary" not in capfd.readouterr().err, name
        assert int(state.skipped) == 0
        results[name] = jax.device_get((state.params, out["window"]))
    first_params, first_window = results.pop("1 device")
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), first_params, jax.device_get(make_params(config)))
    assert max(jax.tree.leaves(moved)) > 1e-3
    for params, window in results.values():
        assert_trees_close(params, first_params, 1e-5)
        for metric, value in window.items():
            np.testing.assert_allclose(value, first_window[metric], rtol=1e-5, err_msg=metric)


def test_a_step_is_a_function_of_the_state_and_the_batch_alone(compiled):
    _, state, step = compiled
    once, again = step(state, make_rows(0)), step(state, make_rows(0))
    assert_trees_equal(once, again)
    later = step(state._replace(step=state.step + 1), make_rows(0))[1]
    assert (np.asarray(later["window"]["loss"]) != np.asarray(once[1]["window"]["loss"])).any()


def test_the_step_counts_tokens_and_averages_since_the_last_log_line(compiled):
    _, state, step = compiled
    seen = []
    for seed in range(4):
        single = step(state._replace(window=jax.tree.map(jnp.zeros_like, state.window)), make_rows(seed))[1]["window"]
        state, out = step(state, make_rows(seed))
        assert out["tokens"] == (make_rows(seed) != SPECIAL.pad).sum()
        seen.append(jax.device_get(single))
        # log_every is 3: the window holds steps 1 … 3, then begins anew.
        inside = seen if seed < 3 else seen[3:]
        for name, value in out["window"].items():
            np.testing.assert_allclose(value, sum(one[name] for one in inside), rtol=1e-6, err_msg=name)
    assert int(state.step) == 4


def test_a_bad_batch_is_skipped_and_counted_and_changes_nothing(compiled):
    _, state, step = compiled
    state, _ = step(state, make_rows(0))
    bad = make_rows(1)
    bad[3, 1] = 50  # the vocabulary ends at 49
    after, out = step(state, bad)
    assert_trees_equal((after.params, after.opt_state), (state.params, state.opt_state))
    assert_trees_equal(after.window, state.window)
    assert (int(out["bad_steps"]), int(out["skipped"]), int(after.step)) == (1, 1, 2)
    after, out = step(after, bad)
    assert (int(out["bad_steps"]), int(out["skipped"])) == (2, 2)
    after, out = step(after, make_rows(2))
    assert (int(out["bad_steps"]), int(out["skipped"]), int(after.step)) == (0, 2, 4)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(after))
    assert (np.asarray(after.params["embeddings"]["word_embeddings"]) !=
            np.asarray(state.params["embeddings"]["word_embeddings"])).any()  # fmt: skip


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_one_bad_entry_in_one_gradient_is_enough(bad):
    tx = optax.sgd(1.0)
    params = {"a": jnp.ones(3), "b": jnp.ones((2, 2))}
    state = create_state(params, tx, ("loss",))
    grads = {"a": jnp.ones(3), "b": jnp.ones((2, 2)).at[1, 0].set(bad)}
    stats = {"loss": jnp.asarray([bad, 1.0])}
    after = apply_gradients(state, grads, tx, stats, log_every=10)
    assert_trees_equal(after.params, params)
    assert_trees_equal(after.window, {"loss": np.zeros(2)})
    assert (int(after.step), int(after.bad_steps), int(after.skipped)) == (1, 1, 1)


@pytest.mark.slow
def test_both_networks_overfit_one_batch():
    """The same rows with the same masks and draws, step after step, until both networks know them by heart.

    The temperature makes the draws uniform whatever the generator learns, else a good generator would leave the
    discriminator nothing to detect, and its loss would vanish by itself.
    """
    config = make_config(
        model=TINY | {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0},
        generator={"width_fraction": 1.0},
        objective={"temperature": 1e6},
        data={"length": 16},
        train={"batch_size": 4},
        optimizer={
            "name": "muon", "learning_rate": 1e-2, "muon_learning_rate": 2e-2, "b2": 0.98, "bias_correction": True,
            "weight_decay": 0.0, "warmup_steps": 10, "per_network": True,
        },
    )  # fmt: skip
    ids = jnp.asarray(make_rows(0, rows=4, length=16, full=True))
    state, step = make_run(config, scale=0.2)
    step = quick_jit(step)
    losses = []
    for _ in range(100):
        after, _ = step(state, ids)
        losses.append({name: float(value[0] / value[1]) for name, value in after.window.items()})
        state = after._replace(step=jnp.zeros_like(after.step))
    assert losses[0]["mlm_loss"] > 2
    assert losses[0]["rtd_loss"] > 0.4
    assert losses[-1]["mlm_loss"] < 0.01
    assert losses[-1]["mlm_accuracy"] == 1
    assert losses[-1]["rtd_loss"] < 0.01
