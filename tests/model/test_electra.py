import dataclasses
import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import erf
from tiny_models import (
    FIRST_WORD,
    PAPER,
    SPECIAL,
    TINY,
    assert_trees_close,
    make_config,
    make_keys,
    make_params,
    make_rows,
    quick_jit,
)

from electra_jax.config import generator_model
from electra_jax.model import attention, encoder
from electra_jax.model.dropout import create_seeds
from electra_jax.model.electra import Electra, add_bias, create_model, create_params
from electra_jax.model.inputs import create_inputs
from electra_jax.presets import load_preset
from electra_jax.pretrain.objectives import rtd_loss

FORMS = pytest.mark.parametrize("form", [PAPER, TINY], ids=["paper", "tiny"])


@functools.partial(quick_jit, static_argnums=0)
def both_networks(model, params, inputs, seeds=None):
    """RTD log-odds and the generator's scores at every position."""
    batch, length = inputs.ids.shape
    slots = jnp.broadcast_to(jnp.arange(length), (batch, length))
    apply = functools.partial(model.apply, {"params": params})
    rtd = apply(inputs, seeds, method=Electra.rtd_logits)
    return rtd, apply(inputs, slots, seeds, method=Electra.mlm_logits)


def as_inputs(ids):
    return create_inputs(jnp.asarray(ids), SPECIAL)


# --- the same networks in NumPy, one example at a time and without a batch axis -----------------------------------


def np_norm(x, p):
    x = x - x.mean(-1, keepdims=True)
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-12) * p["scale"] + p["bias"]


def np_dense(x, p):
    return x @ p["kernel"] + p["bias"]


def np_gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


def np_rotate(x, base):
    length, _, size = x.shape
    angle = np.arange(length)[:, None, None] * base ** (-2 * np.arange(size // 2) / size)
    turned = (x[..., : size // 2] + 1j * x[..., size // 2 :]) * np.exp(1j * angle)
    return np.concatenate([turned.real, turned.imag], axis=-1)


def np_attention(x, p, config):
    q, k, v = (np_dense(x, p[n]).reshape(len(x), config.num_attention_heads, -1) for n in ("query", "key", "value"))
    if config.position == "rope":
        q, k = np_rotate(q, config.rope_base), np_rotate(k, config.rope_base)
    scores = np.einsum("lnd,mnd->nlm", q, k) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    mixed = np.einsum("nlm,mnd->lnd", weights / weights.sum(-1, keepdims=True), v)
    return np_dense(mixed.reshape(len(x), -1), p["output"])


def np_layer(x, p, config):
    if config.convolution_width:
        taps, side = p["convolution"]["taps"], config.convolution_width // 2
        padded = np.pad(x, ((side, side), (0, 0)))
        x = sum(padded[i : i + len(x)] * taps[i] for i in range(len(taps)))

    def feed_forward(y):
        return np_dense(np_gelu(np_dense(y, p["intermediate"])), p["output"])

    if config.norm == "post":
        x = np_norm(x + np_attention(x, p["attention"], config), p["attention_layer_norm"])
        return np_norm(x + feed_forward(x), p["output_layer_norm"])
    x = x + np_attention(np_norm(x, p["attention_layer_norm"]), p["attention"], config)
    return x + feed_forward(np_norm(x, p["output_layer_norm"]))


def np_encoder(x, p, config):
    x = np_dense(x, p["embeddings_project"])
    for layer in range(config.num_hidden_layers):
        x = np_layer(x, jax.tree.map(lambda leaf, at=layer: leaf[at], p["layer"]), config)
    return np_norm(x, p["layer_norm"]) if config.norm == "pre" else x


def np_networks(ids, types, params, config):
    """One example's log-odds and scores."""
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)

    def embed(word, position, p):
        x = word[ids] + p["token_type_embeddings"][types]
        return np_norm(x if position is None else x + position[: len(ids)], p["layer_norm"])

    shared, own = params["embeddings"], params.get("discriminator_embeddings")
    word, position = shared["word_embeddings"], shared.get("position_embeddings")
    for_generator = embed(word, position, shared)
    for_discriminator = for_generator
    if own is not None:
        for_discriminator = embed(word + own["word_embeddings"], None, own)
    hidden = np_encoder(for_discriminator, params["discriminator_encoder"], config.model)
    head = params["discriminator_predictions"]
    rtd = np_dense(np_gelu(np_dense(hidden, head["dense"])), head["dense_prediction"])[:, 0]
    hidden = np_encoder(for_generator, params["generator_encoder"], generator_model(config))
    head = params["generator_predictions"]
    mlm = np_norm(np_gelu(np_dense(hidden, head["dense"])), head["layer_norm"]) @ word.T + head["bias"]
    return rtd, mlm


@FORMS
def test_both_networks_equal_a_numpy_reference_on_each_packed_example(form):
    config = make_config(model=form)
    params = make_params(config, scale=0.3)
    inputs = as_inputs(make_rows(3, rows=4))
    rtd, mlm = both_networks(create_model(config), params, inputs)
    segments, types = np.asarray(inputs.segment_ids), np.asarray(inputs.token_type_ids)
    assert segments.max() == 3
    for row, segment in np.ndindex(4, 3):
        own = segments[row] == segment + 1
        if own.any():
            expected = np_networks(np.asarray(inputs.ids)[row, own], types[row, own], params, config)
            np.testing.assert_allclose(rtd[row, own], expected[0], atol=5e-5)
            np.testing.assert_allclose(mlm[row, own], expected[1], atol=5e-5)


@pytest.mark.parametrize("kernel", ["einsum", "xla"])
@FORMS
def test_packed_examples_do_not_see_each_other(form, kernel):
    config = make_config(model=form | {"attention_probs_dropout_prob": 0.0}, runtime={"attention": kernel})
    params, model = make_params(config), create_model(config)
    inputs = as_inputs(make_rows(4))
    before = both_networks(model, params, inputs)
    for segment in (1, 2, 3):
        changing = np.asarray(inputs.segment_ids) == segment
        assert changing.any()
        word = changing & (np.asarray(inputs.ids) >= FIRST_WORD)
        ids = jnp.where(word, (inputs.ids - FIRST_WORD + 7) % (50 - FIRST_WORD) + FIRST_WORD, inputs.ids)
        after = both_networks(model, params, inputs._replace(ids=ids))
        for old, new in zip(before, after, strict=True):
            np.testing.assert_array_equal(np.asarray(old)[~changing], np.asarray(new)[~changing])
            others = (np.asarray(old) != np.asarray(new)).reshape(*changing.shape, -1).any(-1)
            assert others[word].mean() > 0.9


@FORMS
def test_padding_and_the_batch_change_nothing(form):
    config = make_config(model=form)
    params, model = make_params(config), create_model(config)
    ids = make_rows(5, full=True)
    real = ids != SPECIAL.pad
    outputs = both_networks(model, params, as_inputs(ids))
    other = np.pad(np.concatenate([make_rows(6), ids]), ((0, 0), (0, 16)))
    among_others = both_networks(model, params, as_inputs(other))
    for plain, wide in zip(outputs, among_others, strict=True):
        np.testing.assert_allclose(np.asarray(wide)[8:, :32][real], np.asarray(plain)[real], atol=2e-6)


def test_unrolled_layers_are_the_scanned_ones():
    """Also under dropout, whose draws name the layer, and for the gradient."""
    config = make_config(model=TINY | {"hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0.2})
    params, inputs, seeds = make_params(config), as_inputs(make_rows(7)), create_seeds(make_keys(8))

    def outputs(unroll_layers):
        runtime = dataclasses.replace(config.runtime, unroll_layers=unroll_layers)
        model = create_model(dataclasses.replace(config, runtime=runtime))
        shapes = jax.eval_shape(lambda: create_params(dataclasses.replace(config, runtime=runtime), jax.random.key(0)))

        def loss(params):
            logits = model.apply({"params": params}, inputs, seeds, method=Electra.rtd_logits)
            return jnp.where(inputs.attention_mask, logits, 0).sum(), logits

        return quick_jit(jax.value_and_grad(loss, has_aux=True))(params), jax.tree.structure(shapes)

    (((_, logits), grads), tree), (((_, other), other_grads), other_tree) = outputs(False), outputs(True)
    assert tree == other_tree
    np.testing.assert_allclose(logits, other, atol=2e-6)
    assert_trees_close(other_grads, grads, 2e-6)


def test_dropout_is_repeatable_and_follows_its_seeds():
    config = make_config(model=PAPER | {"hidden_dropout_prob": 0.3})
    params, inputs = make_params(config), as_inputs(make_rows(7))
    model = create_model(config)
    plain = both_networks(model, params, inputs)
    first, same, other = (both_networks(model, params, inputs, create_seeds(make_keys(8, n))) for n in (0, 0, 1))
    for a, b, c, d in zip(plain, first, same, other, strict=True):
        np.testing.assert_array_equal(b, c)
        assert (np.asarray(a) != np.asarray(b)).any()
        assert (np.asarray(b) != np.asarray(d)).any()


def test_every_use_of_dropout_in_a_network_has_a_site_of_its_own(monkeypatch):
    sites = []

    def remember(x, seeds, site, rate, *whole):
        jax.debug.callback(lambda at: sites.append(int(at)), site)
        return x

    monkeypatch.setattr(encoder, "dropout", remember)
    monkeypatch.setattr(attention, "dropout", remember)
    config = make_config(model=PAPER, runtime={"unroll_layers": True})
    inputs, seeds = as_inputs(make_rows(0, rows=1, length=8)), create_seeds(make_keys(1))
    model = create_model(config)
    quick_jit(lambda params: model.apply({"params": params}, inputs, seeds, method=Electra.rtd_logits))(
        make_params(config)
    )
    jax.effects_barrier()
    # After the embeddings; in each layer on the probabilities, the attention's output and the feed-forward's.
    assert len(sites) == len(set(sites)) == 1 + 3 * config.model.num_hidden_layers


def test_bfloat16_is_for_activations_only():
    config = make_config(model=PAPER)
    half = dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, dtype="bfloat16"))
    shapes = jax.eval_shape(lambda: create_params(half, jax.random.key(0)))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
    params, inputs = make_params(config), as_inputs(make_rows(0))
    for exact, rounded in zip(*(both_networks(create_model(c), params, inputs) for c in (config, half)), strict=True):
        assert rounded.dtype == jnp.float32
        apart = float(jnp.abs(exact - rounded).max())
        assert 0 < apart < 0.05 * float(jnp.abs(exact).max())


def test_an_id_outside_the_vocabulary_reads_nan_in_its_own_row_only():
    config = make_config(model=PAPER)
    ids = make_rows(0)
    ids[2, 1] = 50
    for logits in both_networks(create_model(config), make_params(config), as_inputs(ids)):
        nan = np.isnan(np.asarray(logits)).reshape(8, -1).any(axis=1)
        assert nan.tolist() == [row == 2 for row in range(8)]


@pytest.mark.parametrize("sharing", ["none", "token", "all", "gdes"])
@pytest.mark.parametrize("position", ["absolute", "rope"])
def test_what_is_shared_is_one_array(sharing, position):
    config = make_config(model={"embedding_sharing": sharing, "position": position})
    shapes = jax.eval_shape(lambda: create_params(config, jax.random.key(0)))
    group = {"word_embeddings", "token_type_embeddings", "layer_norm"}
    group |= {"position_embeddings"} if position == "absolute" else set()
    assert shapes["embeddings"].keys() == group
    own = shapes.get("discriminator_embeddings")
    if sharing == "all":
        assert own is None
    else:
        assert own.keys() == (group - {"word_embeddings"} if sharing == "token" else group)
    # The output softmax is the word table too: no other leaf has the vocabulary's size but the bias.
    wide = [leaf.shape for leaf in jax.tree.leaves(shapes["generator_predictions"]) if 50 in leaf.shape]
    assert wide == [(50,)]


def test_the_difference_of_gdes_starts_at_nothing():
    config = make_config(model=TINY)
    params = jax.device_get(quick_jit(lambda: create_params(config, jax.random.key(0)))())
    assert not params["discriminator_embeddings"]["word_embeddings"].any()
    assert params["embeddings"]["word_embeddings"].any()


@pytest.fixture(scope="module")
def small():
    """The Small preset whole, freshly drawn."""
    config = load_preset(Path(__file__).parents[2] / "configs" / "small.py")
    return config, jax.jit(lambda: create_params(config, jax.random.key(0)))()


def test_weights_are_drawn_as_the_published_code_draws_them(small):
    _, params = small
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        names, values = [str(entry.key) for entry in path], np.asarray(leaf)
        if names[-1] == "bias":
            assert not values.any()
        elif names[-1] == "scale":
            assert (values == 1).all()
        elif {"embeddings_project", "dense_prediction"} & set(names):
            bound = np.sqrt(6 / sum(values.shape))
            assert 0.95 * bound < np.abs(values).max() <= bound, names
        else:
            assert 0.03 < np.abs(values).max() <= 0.04, names
            # A normal of .02, cut at two standard deviations.
            np.testing.assert_allclose(values.std(), 0.0176, rtol=0.1)


def test_a_fresh_discriminator_starts_at_the_prior(small):
    config, params = small
    inputs = as_inputs(make_rows(0, length=128, vocab_size=30_522))
    model = create_model(dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, unroll_layers=False)))
    rtd, _ = quick_jit(lambda params: (model.apply({"params": params}, inputs, method=Electra.rtd_logits), None))(
        params
    )
    for share in (0.0, 0.1, 1.0):
        labels = jnp.asarray(np.random.default_rng(0).random(rtd.shape) < share)
        loss = rtd_loss(rtd, labels, inputs.attention_mask)
        assert abs(float(loss.sum / loss.weight) - np.log(2)) < 0.1


def test_the_bias_s_own_gradient_is_the_one_of_a_plain_sum():
    rng = np.random.default_rng(0)
    x, bias, weights = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((30, 50), (50,), (30, 50)))
    plain = jax.grad(lambda x, b: (jnp.tanh(x + b) * weights).sum(), argnums=(0, 1))(x, bias)
    own = jax.grad(lambda x, b: (jnp.tanh(add_bias(x, b)) * weights).sum(), argnums=(0, 1))(x, bias)
    for a, b in zip(plain, own, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
