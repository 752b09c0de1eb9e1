import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny_models import (
    FIRST_WORD,
    SPECIAL,
    assert_trees_close,
    make_config,
    make_keys,
    make_params,
    make_rows,
    quick_jit,
)

from electra_jax.model.dropout import create_seeds
from electra_jax.model.electra import Electra, create_model
from electra_jax.model.inputs import create_inputs
from electra_jax.pretrain import objectives
from electra_jax.pretrain.corruption import create_row_keys
from electra_jax.pretrain.objectives import OBJECTIVES, Mean, cross_entropy, mean, rtd_loss, total_loss


def run(config, params, ids, seed=0, train=True):
    inputs, keys = create_inputs(jnp.asarray(ids), SPECIAL), create_row_keys(make_keys(len(ids), seed))
    compute = OBJECTIVES[config.objective.name].compute
    return inputs, compute(create_model(config), params, inputs, keys, config.objective, SPECIAL, train)


def logits_at_slots(config, params, ids, masking, train=True):
    """The generator's scores that `run` read its predictions off."""
    inputs = create_inputs(jnp.asarray(ids), SPECIAL)._replace(ids=masking.ids)
    seeds = create_seeds(create_row_keys(make_keys(len(ids))).generator_dropout) if train else None
    return create_model(config).apply({"params": params}, inputs, masking.slots, seeds, method=Electra.mlm_logits)


def test_mlm_loss_is_the_cross_entropy_of_the_used_slots():
    rng = np.random.default_rng(0)
    logits, labels, used = rng.normal(size=(3, 4, 11)) * 3, rng.integers(0, 11, (3, 4)), rng.random((3, 4)) < 0.6
    loss = mean(cross_entropy(jnp.asarray(logits, jnp.float32), jnp.asarray(labels)), jnp.asarray(used))
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = -np.take_along_axis(log_p, labels[..., None], -1)[..., 0][used].sum()
    np.testing.assert_allclose(loss.sum, expected, rtol=1e-5)
    assert loss.weight == used.sum()


def test_rtd_loss_is_the_sigmoid_cross_entropy_of_the_real_tokens():
    rng = np.random.default_rng(0)
    logits, replaced, real = rng.normal(size=(3, 8)) * 3, rng.random((3, 8)) < 0.3, rng.random((3, 8)) < 0.7
    loss = rtd_loss(jnp.asarray(logits, jnp.float32), jnp.asarray(replaced), jnp.asarray(real))
    p = 1 / (1 + np.exp(-logits))
    expected = -np.log(np.where(replaced, p, 1 - p))[real].sum()
    np.testing.assert_allclose(loss.sum, expected, rtol=1e-5)
    assert loss.weight == real.sum()


def test_losses_are_finite_at_any_logit_and_untouched_by_what_is_left_out():
    logits = jnp.asarray([[1e4, -1e4, jnp.nan]])
    sure = rtd_loss(logits, jnp.asarray([[False, True, True]]), jnp.asarray([[True, True, False]]))
    assert sure == Mean(2e4, 2)
    used = jnp.asarray([[True, False]])
    loss = cross_entropy(jnp.asarray([[[1e4, 0.0], [jnp.nan, 0.0]]]), jnp.zeros((1, 2), jnp.int32))
    assert mean(loss, used) == Mean(0, 1)


def test_a_label_outside_the_vocabulary_is_nan():
    loss = mean(cross_entropy(jnp.zeros((1, 2, 5)), jnp.asarray([[5, 0]])), jnp.asarray([[True, True]]))
    assert np.isnan(loss.sum)


def count_weights(inputs, config):
    return OBJECTIVES[config.objective.name].count_weights(inputs, config.objective, SPECIAL)


LETTERS = {"masked_positions": "with_replacement", "rtd_special_tokens": False}


@pytest.mark.parametrize("changes", [{}, LETTERS], ids=["default", "changed"])
@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_s_losses_have_the_weights_it_says(name, changes):
    config, ids = make_config(objective={"name": name} | changes), make_rows(1)
    ids[2] = 0
    ids[3] = np.pad([SPECIAL.cls, *[SPECIAL.mask] * 24, 7, SPECIAL.sep], (0, 5))  # fewer candidates than slots
    inputs, outputs = quick_jit(lambda params: run(config, params, ids))(make_params(config))
    weights = count_weights(inputs, config)
    assert weights.mlm == outputs.mlm_loss.weight > 0
    assert outputs.rtd_loss is None or weights.rtd == outputs.rtd_loss.weight > 0
    assert OBJECTIVES[name].best[0] in (config.objective.has_discriminator and "rtd_auc_unigram", "mlm_loss")


def test_denominators_are_known_before_the_forward_pass_and_count_the_structure_too():
    config, ids = make_config(), make_rows(0)
    ids[3] = 0
    outputs = quick_jit(lambda params: run(config, params, ids)[1])(make_params(config))
    weights = count_weights(create_inputs(jnp.asarray(ids), SPECIAL), config)
    slots = [max(1, min(4, round(0.15 * int(n)))) if n else 0 for n in (ids > 0).sum(axis=1)]
    assert weights.mlm == outputs.mlm_loss.weight == outputs.mlm_accuracy.weight == sum(slots)
    assert weights.rtd == outputs.rtd_loss.weight == (ids != SPECIAL.pad).sum()
    expected = outputs.mlm_loss.sum / sum(slots) + 50.0 * outputs.rtd_loss.sum / (ids != 0).sum()
    np.testing.assert_allclose(total_loss(outputs, weights, config.objective), expected, rtol=1e-6)
    empty = count_weights(create_inputs(jnp.zeros((2, 8), jnp.int32), SPECIAL), config)
    assert (empty.mlm, empty.rtd) == (1, 1)


def test_without_special_tokens_the_rtd_loss_is_that_of_the_others():
    ids = make_rows(0)
    ids[2, 2] = SPECIAL.mask  # in a text, a token like any other
    config = make_config(objective={"rtd_special_tokens": False})
    params = make_params(config)
    outputs = quick_jit(lambda params: run(config, params, ids)[1])(params)
    detected = (ids != SPECIAL.pad) & (ids != SPECIAL.cls) & (ids != SPECIAL.sep)
    expected = rtd_loss(outputs.rtd_logits, outputs.is_replaced, jnp.asarray(detected))
    np.testing.assert_allclose(outputs.rtd_loss, expected, rtol=1e-6)
    assert outputs.rtd_loss.weight == detected.sum() < (ids != SPECIAL.pad).sum()
    structure = quick_jit(lambda params: run(make_config(), params, ids)[1])(params)
    assert structure.rtd_loss.weight == (ids != SPECIAL.pad).sum()
    assert structure.rtd_loss.sum > outputs.rtd_loss.sum
    np.testing.assert_array_equal(structure.rtd_logits, outputs.rtd_logits)


def test_with_replacement_every_hit_of_a_place_is_predicted():
    """Both of a place's slots give the same logits and count in the loss, once each."""
    config = make_config(objective={"masked_positions": "with_replacement", "mask_prob": 0.4})
    ids = make_rows(0)
    params = make_params(config)
    outputs = quick_jit(lambda params: run(config, params, ids)[1])(params)
    logits = np.asarray(logits_at_slots(config, params, ids, outputs.masking))
    slots, used = np.asarray(outputs.masking.slots), np.asarray(outputs.masking.slot_mask)
    pairs = [
        (logits[row, a], logits[row, b])
        for row in range(len(ids))
        for a, b in itertools.combinations(np.flatnonzero(used[row]), 2)
        if slots[row, a] == slots[row, b]
    ]
    assert pairs
    for first, second in pairs:
        np.testing.assert_allclose(first, second, rtol=1e-5)
    log_p = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    labels = np.take_along_axis(ids, slots, axis=1)
    expected = -np.take_along_axis(log_p, labels[..., None], -1)[..., 0][used].sum()
    np.testing.assert_allclose(outputs.mlm_loss.sum, expected, rtol=1e-5)
    assert outputs.mlm_loss.weight == used.sum()


def test_the_discriminator_reads_the_generator_s_draws_and_their_labels():
    config = make_config()
    ids = make_rows(0)
    params = make_params(config)
    inputs, outputs = quick_jit(lambda params: run(config, params, ids, train=False))(params)
    masking, replaced = outputs.masking, np.asarray(outputs.is_replaced)
    at_slots = np.zeros_like(replaced)
    for row, slots, used in zip(at_slots, np.asarray(masking.slots), np.asarray(masking.slot_mask), strict=True):
        row[slots[used]] = True
    assert replaced.any()
    assert not (replaced & ~at_slots).any()
    logits = logits_at_slots(config, params, ids, masking, train=False)
    assert logits.shape == (8, 4, 50)
    right = np.argmax(logits, -1) == np.asarray(masking.labels)
    assert outputs.mlm_accuracy.sum == (right & np.asarray(masking.slot_mask)).sum()
    np.testing.assert_array_equal(inputs.ids, ids)


def test_mlm_has_no_discriminator():
    config = make_config(objective={"name": "mlm"})
    params = make_params(config)
    assert params.keys() == {"embeddings", "generator_encoder", "generator_predictions"}
    _, outputs = quick_jit(lambda params: run(config, params, make_rows(0)))(params)
    assert outputs.rtd_loss is None
    weights = count_weights(create_inputs(jnp.asarray(make_rows(0)), SPECIAL), config)
    np.testing.assert_allclose(
        total_loss(outputs, weights, config.objective), outputs.mlm_loss.sum / outputs.mlm_loss.weight
    )


GENERATOR_ONLY = {"generator_encoder", "generator_predictions"}
DISCRIMINATOR_ONLY = {"discriminator_encoder", "discriminator_predictions", "discriminator_embeddings"}


@functools.cache
def gradients(sharing):
    """The gradients of the MLM loss, of the RTD loss and of both together, at the same draws."""
    config = make_config(model={"embedding_sharing": sharing})
    params = make_params(config)

    @quick_jit
    def pulled(params):
        def losses(params):
            _, outputs = run(config, params, make_rows(0))
            return outputs.mlm_loss.sum / outputs.mlm_loss.weight, outputs.rtd_loss.sum / outputs.rtd_loss.weight

        _, pull = jax.vjp(losses, params)
        return jax.vmap(lambda mlm, rtd: pull((mlm, rtd))[0])(
            jnp.asarray([1.0, 0.0, 1.0]), jnp.asarray([0.0, 1.0, 50.0])
        )

    stacked = jax.device_get(pulled(params))
    return [jax.tree.map(lambda leaf, at=at: leaf[at], stacked) for at in range(3)]


def moved(tree):
    """The leaves that have a gradient at all."""
    return {jax.tree_util.keystr(path) for path, leaf in jax.tree_util.tree_leaves_with_path(tree) if leaf.any()}


@pytest.mark.parametrize("sharing", ["none", "token", "all", "gdes"])
def test_the_rtd_gradient_never_reaches_the_generator_through_its_draws(sharing):
    mlm, rtd, _ = gradients(sharing)
    for name in GENERATOR_ONLY:
        assert not moved(rtd[name])
        assert moved(mlm[name])
    for name in DISCRIMINATOR_ONLY & rtd.keys():
        assert not moved(mlm[name])
        assert moved(rtd[name])
    # Through the embeddings it reaches exactly what is shared.
    every = {jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(rtd["embeddings"])}
    shared = {"none": set(), "gdes": set(), "token": {"['word_embeddings']"}, "all": every}[sharing]
    assert moved(rtd["embeddings"]) == shared
    assert moved(mlm["embeddings"]) == every


@pytest.mark.parametrize("sharing", ["none", "token", "all", "gdes"])
def test_shared_parameters_receive_the_sum_of_both_gradients(sharing):
    mlm, rtd, together = gradients(sharing)
    assert_trees_close(together, jax.tree.map(lambda a, b: a + 50.0 * b, mlm, rtd), 2e-6)


def test_with_token_sharing_every_word_of_the_row_moves_by_rtd_and_every_word_by_mlm():
    mlm, rtd, _ = gradients("token")
    words = np.unique(make_rows(0))
    of_rtd = rtd["embeddings"]["word_embeddings"].any(axis=1)
    assert of_rtd[words[words >= FIRST_WORD]].mean() > 0.9
    assert mlm["embeddings"]["word_embeddings"].any(axis=1).all()


def test_weights_scale_the_losses():
    ids = make_rows(0)
    inputs = create_inputs(jnp.asarray(ids), SPECIAL)
    config = make_config(objective={"gen_weight": 3.0, "disc_weight": 7.0})
    loss = Mean(jnp.asarray(10.0), jnp.asarray(2.0))
    outputs = objectives.Outputs(None, loss, loss, rtd_loss=loss)
    weights = count_weights(inputs, config)
    expected = 3.0 * 10.0 / weights.mlm + 7.0 * 10.0 / weights.rtd
    np.testing.assert_allclose(total_loss(outputs, weights, config.objective), expected, rtol=1e-6)
