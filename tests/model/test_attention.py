import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import SPECIAL, TINY, make_config, make_params, make_rows, quick_jit

from electra_jax.errors import UserError
from electra_jax.model.attention import Kernels, attend, create_rotation, mix, rotate
from electra_jax.model.dropout import create_seeds
from electra_jax.model.electra import Electra
from electra_jax.model.implementations import Use, choose
from electra_jax.model.inputs import create_inputs
from electra_jax.networks import networks_of


def make_qkv(shape=(3, 16, 2, 8)):
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), jnp.float32) for _ in range(3)]


def make_segments(batch=3, length=16):
    """Up to three examples a row, then padding (0); the first row is one whole example."""
    segments = np.sort(np.random.default_rng(1).integers(0, 4, (batch, length)))[:, ::-1]
    segments = np.where(segments == 0, 0, 4 - segments)
    segments[0] = 1
    return segments.copy()


def reference(query, key, value, segments):
    """softmax(QKᵀ/√d)V, token by token, each over its own example alone."""
    query, key, value = (np.asarray(x, np.float64) for x in (query, key, value))
    result = np.zeros_like(query)
    for b, at, n in np.ndindex(*query.shape[:3]):
        own = segments[b] == segments[b, at]
        scores = key[b, own, n] @ query[b, at, n] / np.sqrt(query.shape[-1])
        weights = np.exp(scores - scores.max())
        result[b, at, n] = (weights / weights.sum()) @ value[b, own, n]
    return result


def implementation(name, same):
    if name == "xla":
        return lambda q, k, v: jax.nn.dot_product_attention(q, k, v, mask=same[:, None], implementation="xla")
    return lambda q, k, v: attend(q, k, v, same, None, 0, 0.0)


@pytest.mark.parametrize("name", ["einsum", "xla"])
def test_attention_equals_the_reference(name):
    segments = make_segments()
    same = jnp.asarray(segments[:, :, None] == segments[:, None, :])
    mixed = implementation(name, same)(*make_qkv())
    np.testing.assert_allclose(mixed, reference(*make_qkv(), segments), atol=2e-6)


def test_the_softmax_is_float32_whatever_comes_in():
    segments = make_segments()
    same = jnp.asarray(segments[:, :, None] == segments[:, None, :])
    half = [x.astype(jnp.bfloat16) for x in make_qkv()]
    mixed = implementation("einsum", same)(*half)
    assert mixed.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(mixed, np.float32), reference(*half, segments), atol=0.03)


def test_implementations_agree_in_the_networks_forward_and_backward():
    config = make_config(model=TINY)
    params = make_params(config)
    inputs = create_inputs(jnp.asarray(make_rows(0)), SPECIAL)
    weights = jnp.asarray(np.random.default_rng(0).normal(size=inputs.ids.shape), jnp.float32)

    def both(name):
        model = Electra(networks_of(config), Kernels(attention=name, unroll_layers=False))

        def loss(params):
            hidden = model.apply({"params": params}, inputs, method=Electra.rtd_logits)
            return (jnp.where(inputs.attention_mask, hidden, 0) * weights).sum()

        return quick_jit(jax.value_and_grad(loss))

    params = {name: tree for name, tree in params.items() if "discriminator" in name or name == "embeddings"}
    (value, grads), (other, other_grads) = both("einsum")(params), both("xla")(params)
    np.testing.assert_allclose(value, other, rtol=1e-5)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(other_grads), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5 * max(1.0, float(jnp.abs(a).max())))


@pytest.mark.parametrize(("name", "rate"), [("einsum", 0.1), ("xla", 0.0)])
def test_nothing_of_length_squared_is_kept_for_the_backward_pass(name, rate):
    batch, length, heads = 2, 64, 4
    seeds = create_seeds(jax.random.split(jax.random.key(0), batch))

    def kept(kernels):
        def mixed(*qkv):
            return mix(name, kernels, *qkv, jnp.ones((batch, length), jnp.int32), seeds, 0, rate)

        _, backward = jax.vjp(mixed, *make_qkv((batch, length, heads, 8)))
        return max(leaf.size for leaf in jax.tree.leaves(backward))

    assert kept(Kernels()) < batch * length * length
    assert kept(Kernels(remat="layers")) >= batch * heads * length * length  # the layer around it keeps nothing


def test_an_implementation_that_cannot_do_what_is_wanted_is_refused():
    assert choose("auto", Use(0.1)) == "einsum"
    assert choose("auto", Use(0.0)) == "xla"
    assert choose("einsum", Use(0.0)) == "einsum"
    assert choose("xla", Use(0.0)) == "xla"
    with pytest.raises(UserError, match="has no dropout"):
        choose("xla", Use(0.1))


def test_rope_turns_pairs_as_complex_numbers_turn():
    x = make_qkv()[0]
    positions = np.random.default_rng(2).integers(0, 300, x.shape[:2])
    as_complex = np.asarray(x[..., :4], np.float64) + 1j * np.asarray(x[..., 4:], np.float64)
    angle = positions[..., None, None] * 1000.0 ** (-2 * np.arange(4) / 8)
    turned = as_complex * np.exp(1j * angle)
    expected = np.concatenate([turned.real, turned.imag], axis=-1)
    np.testing.assert_allclose(rotate(x, create_rotation(jnp.asarray(positions), 300, 8, 1000.0)), expected, atol=2e-4)


def test_rope_leaves_position_zero_and_sees_distances_only():
    query, key, _ = make_qkv((1, 1, 1, 8))
    np.testing.assert_array_equal(rotate(query, create_rotation(jnp.zeros((1, 1), jnp.int32), 1, 8, 1e4)), query)

    def score(at, other):
        at_each = [create_rotation(jnp.full((1, 1), p, jnp.int32), 200, 8, 1e4) for p in (at, other)]
        turned = [rotate(x, rotation) for x, rotation in zip((query, key), at_each, strict=True)]
        return float((turned[0] * turned[1]).sum())

    assert abs(score(7, 3) - score(107, 103)) < 1e-4
    assert abs(score(3, 7) - score(23, 27)) < 1e-4
    assert abs(score(7, 3) - score(3, 7)) > 1e-3
