"""Rows in groups change nothing but the memory: above all the scores of the vocabulary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import (
    SPECIAL,
    assert_trees_close,
    assert_trees_equal,
    make_config,
    make_keys,
    make_params,
    make_rows,
    quick_jit,
    quick_options,
)

from electra_jax.config import num_slots
from electra_jax.model.electra import create_model
from electra_jax.model.inputs import create_inputs
from electra_jax.pretrain.corruption import create_row_keys
from electra_jax.pretrain.groups import join_rows, map_rows, split_rows
from electra_jax.pretrain.objectives import OBJECTIVES, total_loss
from electra_jax.pretrain.step import accumulate_gradients


def test_a_group_takes_its_rows_from_all_over_the_batch():
    rows = {"ids": jnp.arange(24).reshape(12, 2), "keys": make_keys(12)}
    parts = split_rows(rows, 3)
    np.testing.assert_array_equal(parts["ids"][1, :, 0], [2, 8, 14, 20])
    assert_trees_equal(jax.random.key_data(join_rows(parts)["keys"]), jax.random.key_data(rows["keys"]))
    np.testing.assert_array_equal(join_rows(parts)["ids"], rows["ids"])


@pytest.mark.parametrize(("rows", "wanted", "at_once"), [(8, 4, 2), (8, 1, 8), (6, 4, 3), (1, 4, 1), (5, 4, 5)])
def test_a_function_of_rows_sees_one_group_at_a_time(rows, wanted, at_once):
    seen = []

    def double(x, y):
        seen.append(len(x))
        return {"sum": 2 * x + y[:, None], "none": None}

    x, y = jnp.arange(float(rows * 3)).reshape(rows, 3), jnp.arange(float(rows))
    np.testing.assert_array_equal(map_rows(double, wanted, x, y)["sum"], 2 * x + y[:, None])
    assert set(seen) == {at_once}


def outcome(objective, sharing, **runtime):
    """(gradients, what the objective computed) on rows of differing lengths."""
    config = make_config(model={"embedding_sharing": sharing}, objective={"name": objective}, runtime=runtime)
    model, inputs = create_model(config), create_inputs(jnp.asarray(make_rows(0)), SPECIAL)
    compute, count_weights, *_ = OBJECTIVES[objective]
    weights = count_weights(inputs, config.objective, SPECIAL)

    def loss(params):
        keys = create_row_keys(make_keys(8))
        outputs = compute(model, params, inputs, keys, config.objective, SPECIAL, True)
        return total_loss(outputs, weights, config.objective), outputs

    return quick_jit(jax.grad(loss, has_aux=True))(make_params(config))


@pytest.mark.parametrize(
    ("objective", "sharing"),
    [("electra", "none"), ("electra", "token"), ("electra", "all"), ("electra", "gdes"), ("mlm", "all")],
)
def test_scores_in_chunks_are_the_scores_whole(objective, sharing):
    """Losses and gradients, and every draw to the bit."""
    (whole, outputs), (parts, part_outputs) = outcome(objective, sharing), outcome(objective, sharing, vocab_chunks=4)
    assert_trees_close(parts, whole, 2e-6)
    assert_trees_close(part_outputs, outputs, 2e-6)
    assert_trees_equal(part_outputs.drawn, outputs.drawn)
    assert (outputs.drawn is None) == (objective == "mlm")


def gradient_memory(objective, chunks, rows, vocab_size):
    """Bytes of temporaries of a batch's gradient."""
    config = make_config(
        model={"vocab_size": vocab_size}, objective={"name": objective}, runtime={"vocab_chunks": chunks}
    )
    model, keys, ids = create_model(config), make_keys(rows), jax.ShapeDtypeStruct((rows, 32), jnp.int32)

    def gradients(params, ids):
        return accumulate_gradients(params, create_inputs(ids, SPECIAL), keys, config, model, SPECIAL)

    compiled = jax.jit(gradients).lower(make_params(config), ids).compile(quick_options())
    return compiled.memory_analysis().temp_size_in_bytes


@pytest.mark.parametrize("objective", ["electra", "mlm"])
def test_scores_in_chunks_are_never_there_whole(objective):
    """Of all scores and their gradient, an eighth is left; here they are most of what there is."""
    rows, vocab_size = 64, 30_000
    scores = rows * num_slots(make_config().objective, 32) * vocab_size * 4
    whole, parts = (gradient_memory(objective, chunks, rows, vocab_size) for chunks in (1, 8))
    assert whole - parts > 1.5 * scores
