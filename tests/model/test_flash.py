"""All implementations of attention that a CPU computes, flash by its interpreter, against each other."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import PartitionSpec as P
from tiny_models import SPECIAL, TINY, assert_trees_close, make_config, make_params, make_rows, quick_jit

from electra_jax.config import MeshConfig
from electra_jax.model.attention import Kernels, mix
from electra_jax.model.electra import create_model
from electra_jax.model.inputs import create_inputs
from electra_jax.pretrain.step import accumulate_gradients
from electra_jax.training import sharding

ON_CPU = Kernels(platform="cpu")
ROWS, HEADS, SIZE = 2, 2, 16


def make_arrays(length, dtype, seed=0, heads=HEADS):
    """Query, key, value, and the weights of a loss."""
    rng = np.random.default_rng(seed)
    return [jnp.asarray(rng.normal(size=(ROWS, length, heads, SIZE)), dtype) for _ in range(4)]


def make_segments(kind, length):
    """packed: three examples a row and padding at its end; padded: one example, of half the row and of all."""
    if kind == "padded":
        ends = np.array([[length // 2], [length]])
        return jnp.asarray(np.arange(length) < ends, jnp.int32)
    cuts = np.array([[length // 5, length // 2, length - 3], [length // 3, length // 3 + 1, length]])
    number = (np.arange(length)[None, :, None] >= cuts[:, None]).sum(-1)
    return jnp.asarray(np.where(number < 3, number + 1, 0), jnp.int32)


def result_and_gradients(name, arrays, segment_ids):
    """The mixed values, and the gradients of their weighted sum over real tokens for query, key and value."""
    *inputs, weights = arrays

    def loss(query, key, value):
        mixed = mix(name, ON_CPU, query, key, value, segment_ids)
        real = (segment_ids > 0)[:, :, None, None]
        return (mixed * weights * real).astype(jnp.float32).sum(), jnp.where(real, mixed, 0)

    grads, mixed = quick_jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*inputs)
    return mixed, *grads


def assert_close(found, expected, bound):
    """Apart by at most `bound` of the largest entry, array by array."""
    for ours, theirs in zip(found, expected, strict=True):
        ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
        assert np.abs(ours - theirs).max() <= bound * np.abs(theirs).max()


@pytest.mark.parametrize("kind", ["packed", "padded"])
@pytest.mark.parametrize("length", [64, 128, 200, 256])
@pytest.mark.parametrize("name", ["einsum", "flash"])
def test_implementations_agree_with_xla_forward_and_backward(name, length, kind):
    segment_ids = make_segments(kind, length)
    arrays = make_arrays(length, jnp.float32)
    assert_close(
        result_and_gradients(name, arrays, segment_ids), result_and_gradients("xla", arrays, segment_ids), 1e-5
    )


@pytest.mark.parametrize("kind", ["packed", "padded"])
@pytest.mark.parametrize("name", ["einsum", "flash", "xla"])
def test_in_bfloat16_they_stay_near_float32(name, kind):
    """Within 2⁻⁶ of the largest entry: bfloat16 has eight bits, and some ten roundings meet."""
    segment_ids, half = make_segments(kind, 128), make_arrays(128, jnp.bfloat16)
    exact = result_and_gradients("xla", [x.astype(jnp.float32) for x in half], segment_ids)
    found = result_and_gradients(name, half, segment_ids)
    assert all(x.dtype == jnp.bfloat16 for x in found)
    assert_close(found, exact, 2**-6)


@pytest.mark.slow
def test_flash_computes_rows_of_512_and_1024_tokens():
    for length in (512, 1024):
        segment_ids, arrays = make_segments("packed", length), make_arrays(length, jnp.float32)
        found, expected = (result_and_gradients(name, arrays, segment_ids) for name in ("flash", "xla"))
        assert_close(found, expected, 1e-5)


COMPILED = {
    name: jax.jit(lambda q, k, v, ids, name=name: mix(name, ON_CPU, q, k, v, ids))
    for name in ("einsum", "flash", "xla")
}


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.integers(1, 64), min_size=1, max_size=8), min_size=ROWS, max_size=ROWS), st.integers(0, 9))
def test_any_layout_of_segments_gives_the_same(lengths, seed):
    segment_ids = np.zeros((ROWS, 64), np.int32)
    for row, parts in zip(segment_ids, lengths, strict=True):
        filled = np.repeat(np.arange(1, len(parts) + 1), parts)[:64]
        row[: len(filled)] = filled
    *inputs, _ = make_arrays(64, jnp.float32, seed)
    found = {name: np.asarray(compiled(*inputs, segment_ids)) for name, compiled in COMPILED.items()}
    np.testing.assert_allclose(found["flash"], found["xla"], atol=1e-5)
    np.testing.assert_allclose(found["einsum"], found["xla"], atol=1e-5)


@pytest.mark.parametrize("name", ["einsum", "flash", "xla"])
def test_no_gradient_flows_from_one_example_to_another(name):
    segment_ids = make_segments("packed", 64)
    *inputs, _ = make_arrays(64, jnp.float32)

    @quick_jit
    def gradients(row, segment):
        def loss(query, key, value):
            mixed = mix(name, ON_CPU, query, key, value, segment_ids)
            own = (jnp.arange(ROWS)[:, None] == row) & (segment_ids == segment)
            return jnp.sin(mixed * own[:, :, None, None]).sum()

        return jax.grad(loss, argnums=(0, 1, 2))(*inputs)

    for row in range(ROWS):
        for segment in np.unique(segment_ids[row]):
            own = (np.arange(ROWS)[:, None] == row) & (np.asarray(segment_ids) == segment)
            for grad in gradients(row, segment):
                assert not np.asarray(grad)[~own].any()
                assert np.asarray(grad)[own].any() or own.sum() == 1


def test_flash_can_be_vmapped_as_fine_tuning_does():
    segment_ids = jnp.stack([make_segments(kind, 64) for kind in ("packed", "padded")])
    members = [
        jnp.stack(pair) for pair in zip(make_arrays(64, jnp.float32), make_arrays(64, jnp.float32, 1), strict=True)
    ]
    together = jax.vmap(lambda ids, *arrays: result_and_gradients("flash", arrays, ids))(segment_ids, *members)
    for member in range(2):
        alone = result_and_gradients("flash", [x[member] for x in members], segment_ids[member])
        assert_close([x[member] for x in together], alone, 1e-6)


SPREAD = Kernels(platform="cpu", spread=sharding.HEADS)


@pytest.mark.parametrize(("heads", "on_each"), [(2, 1), (3, 3)])
def test_flash_is_divided_over_a_mesh(heads, on_each):
    """Three heads cannot be halved: each device of the tensor axis then computes all of them."""
    *inputs, _ = make_arrays(64, jnp.float32, heads=heads)
    segment_ids = make_segments("packed", 64)
    alone = mix("flash", ON_CPU, *inputs, segment_ids)
    mesh = sharding.create_mesh(MeshConfig(data=2, tensor=2), ROWS, jax.devices()[:4])
    with jax.set_mesh(mesh):
        placed = jax.device_put((*inputs, segment_ids), sharding.batch_sharding(mesh))
        divided = jax.jit(lambda *arrays: mix("flash", SPREAD, *arrays))(*placed)
    assert_close([divided], [alone], 1e-6)
    assert divided.sharding.shard_shape(divided.shape) == (1, 64, on_each, SIZE)


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("length", [64, 128, 256, 512])
def test_flash_lowers_for_a_tpu_that_is_not_there(length, dtype):
    """Forward and backward, on a mesh; XLA alone cannot divide the kernel, as the second half shows."""
    mesh = sharding.create_mesh(MeshConfig(data=2, tensor=2), ROWS, jax.devices()[:4])
    array = jax.ShapeDtypeStruct((ROWS, length, HEADS, SIZE), dtype, sharding=jax.NamedSharding(mesh, sharding.HEADS))
    ids = jax.ShapeDtypeStruct((ROWS, length), jnp.int32, sharding=jax.NamedSharding(mesh, P(sharding.BATCH_AXES)))

    def lowered():
        def loss(query, key, value, ids):
            kernels = Kernels(platform="tpu", spread=sharding.HEADS)
            return mix("flash", kernels, query, key, value, ids).astype(jnp.float32).sum()

        traced = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(array, array, array, ids)
        return traced.lower(lowering_platforms=("tpu",)).as_text()

    with jax.set_mesh(mesh):
        assert lowered().count("@tpu_custom_call") == 3  # forward, keys and values, queries
    with pytest.raises(NotImplementedError, match="shard_map"):
        lowered()


@pytest.mark.slow
def test_a_train_step_by_flash_equals_the_one_by_einsum():
    """Gradients and sums of both networks, through micro-batches, the loop over layers and a mesh."""
    mesh = sharding.create_mesh(MeshConfig(data=2, tensor=2), 4, jax.devices()[:4])

    def gradients(attention, spread):
        config = make_config(
            model=TINY | {"attention_probs_dropout_prob": 0.0},
            runtime={"micro_batches": 2, "unroll_layers": False, "attention": attention},
        )
        model = create_model(config, "cpu", spread)
        keys = jax.random.split(jax.random.key(0), 8)

        def compute(params, ids):
            return accumulate_gradients(params, create_inputs(ids, SPECIAL), keys, config, model, SPECIAL)

        return quick_jit(compute)(make_params(config), jnp.asarray(make_rows(0)))

    expected = gradients("einsum", P())
    with jax.set_mesh(mesh):
        divided = gradients("flash", sharding.HEADS)
    assert_trees_close(divided, expected, 1e-5)
