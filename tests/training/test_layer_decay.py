import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from parity import LABELS, TINY, random_params
from tiny_models import quick_jit

from electra_jax.config import MeshConfig, OptimizerConfig
from electra_jax.model.attention import Kernels
from electra_jax.model.electra import Electra, shapes_of
from electra_jax.networks import NetworksConfig, TaskConfig
from electra_jax.training.optimizer import decay_mask, layer_scales, make_finetune_optimizer, make_optimizer
from electra_jax.training.sharding import create_mesh, state_shardings

STEPS = 10
TASKS = {
    "sequence": TaskConfig(name="sequence_classification", labels=LABELS),
    "sequence, paper": TaskConfig(name="sequence_classification", labels=LABELS, form="paper"),
    "tokens": TaskConfig(name="token_classification", labels=LABELS),
    "spans": TaskConfig(name="question_answering", labels=("start", "end")),
    "spans, paper": TaskConfig(name="question_answering", labels=("start", "end"), form="paper", answerability=True),
}
FORMS = {
    "paper": {},
    "of this project": {"norm": "pre", "convolution_width": 3, "position": "rope"},
    "no projection": {"embedding_size": TINY.hidden_size},
}
CONFIG = OptimizerConfig(learning_rate=1.0, warmup_steps=0, weight_decay=0.1, clip_norm=1.0)


def networks_for(task="sequence", **changes):
    return NetworksConfig(discriminator=dataclasses.replace(TINY, **changes), task=TASKS[task])


def names_of(path):
    return "/".join(entry.key for entry in path)


def by_name(tree):
    return {names_of(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


@pytest.mark.parametrize(("form", "extra"), [("paper", 0), ("google", 1)])
def test_the_multipliers_of_twelve_layers(form, extra):
    shapes = shapes_of(Electra(networks_for(num_hidden_layers=12, norm="pre"), Kernels()))
    scales = by_name(layer_scales(shapes, 0.8, form))
    layers = scales["discriminator_encoder/layer/attention/query/kernel"]
    assert layers.shape == (12, 1, 1)
    assert scales["discriminator_encoder/layer/output/bias"].shape == (12, 1)
    # From the first layer to the last, worked out by hand.
    powers = [0.068719, 0.085899, 0.107374, 0.134218, 0.167772, 0.209715,
              0.262144, 0.32768, 0.4096, 0.512, 0.64, 0.8]  # fmt: skip
    np.testing.assert_allclose(layers.ravel(), np.array(powers) * 0.8**extra, rtol=1e-5)
    np.testing.assert_allclose(scales["embeddings/word_embeddings"], 0.054976 * 0.8**extra, rtol=1e-5)
    np.testing.assert_allclose(scales["discriminator_encoder/embeddings_project/kernel"], 0.054976 * 0.8**extra, 1e-5)
    np.testing.assert_allclose(scales["discriminator_encoder/layer_norm/scale"], 0.8 * 0.8**extra, rtol=1e-5)
    assert {float(scale) for name, scale in scales.items() if name.startswith("task_head")} == {1.0}


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("network", FORMS)
def test_every_parameter_has_its_scale_its_decay_and_its_place(task, network):
    shapes = shapes_of(Electra(networks_for(task, **FORMS[network]), Kernels()))
    scales, decayed = by_name(layer_scales(shapes, 0.5, "paper")), by_name(decay_mask(shapes))
    for name, leaf in by_name(shapes).items():
        rates = np.unique(np.broadcast_to(scales[name], leaf.shape))  # raises where it cannot be
        count = TINY.num_hidden_layers
        expected = [0.5] if "encoder/layer_norm" in name else [0.5 ** (count + 1)]
        if name.startswith("task_head"):
            expected = [1.0]
            assert decayed[name] == name.endswith("kernel")
        elif "encoder/layer/" in name:
            expected = [0.5**power for power in range(count, 0, -1)]
        np.testing.assert_array_equal(rates, np.array(expected, np.float32), err_msg=name)
    for axes in ({}, {"data": 1, "fsdp": 2, "tensor": 2}):
        places = state_shardings(shapes, create_mesh(MeshConfig(**axes), 8))
        for leaf, place in zip(jax.tree.leaves(shapes), jax.tree.leaves(places), strict=True):
            place.shard_shape(leaf.shape)  # raises where an axis does not divide


@pytest.mark.parametrize("path", ["new_room/kernel", "discriminator_encoder/gate/kernel", "generator_encoder/kernel"])
def test_an_unknown_parameter_is_refused_by_name(path):
    params = random_params(networks_for())
    room, *rest = path.split("/")
    params[room] = {**params.get(room, {}), rest[0]: {"kernel": np.zeros(3)} if rest[1:] else np.zeros(3)}
    with pytest.raises(KeyError, match=path):
        layer_scales(params, 0.8, "paper")


def update(tx, params, grads):
    return quick_jit(lambda params, grads: tx.update(grads, tx.init(params), params)[0])(params, grads)


@pytest.mark.parametrize("bias_correction", [False, True])
@pytest.mark.parametrize("form", ["paper", "google"])
def test_an_update_is_the_pre_training_one_without_its_rate_and_scaled_by_layer(form, bias_correction):
    """Weight decay included; and the layers' own updates stand in the ratio of the decay."""
    networks = networks_for("spans, paper", norm="pre", convolution_width=3)
    params, grads = random_params(networks), random_params(networks, seed=1)
    config = dataclasses.replace(CONFIG, bias_correction=bias_correction)
    plain = by_name(update(make_optimizer(config, STEPS), params, grads))  # at a learning rate of 1
    found = by_name(update(make_finetune_optimizer(config, STEPS, 0.5, form), params, grads))
    first = {"paper": 1, "google": 2}[form]
    assert found.keys() == plain.keys()
    for name, direction in found.items():
        assert np.abs(plain[name]).max() > 0, name
        scale = by_name(layer_scales(params, 0.5, form))[name]
        np.testing.assert_allclose(direction, plain[name] * scale, rtol=1e-5, atol=1e-9, err_msg=name)
    kernel = "discriminator_encoder/layer/attention/query/kernel"
    ratios = [np.median(found[kernel][layer] / plain[kernel][layer]) for layer in range(TINY.num_hidden_layers)]
    np.testing.assert_allclose(ratios, [0.5 ** (first + 2), 0.5 ** (first + 1), 0.5**first], rtol=1e-4)


def test_weight_decay_shrinks_with_the_layer_and_the_schedule():
    """Where all gradients are zero, a matrix loses rate · schedule · scale · decay of itself, and a bias nothing."""
    params = random_params(networks_for())
    config = dataclasses.replace(CONFIG, warmup_steps=2)
    tx = make_finetune_optimizer(config, STEPS, 0.5, "paper")
    zero = jax.tree.map(jnp.zeros_like, params)

    @quick_jit
    def two(params):
        first, state = tx.update(zero, tx.init(params), params)
        return first, tx.update(zero, state, params)[0]

    first, second = map(by_name, two(params))
    assert all((np.asarray(leaf) == 0).all() for leaf in first.values())  # the warm-up begins at 0
    before = by_name(params)
    factor = 0.5 * (1 - 1 / STEPS)
    for name, scale in (("embeddings/word_embeddings", 0.0625), ("task_head/output/kernel", 1.0)):
        np.testing.assert_allclose(second[name], -factor * scale * 0.1 * before[name], rtol=1e-5)
    assert (np.asarray(second["task_head/output/bias"]) == 0).all()


def test_each_of_several_members_is_updated_as_if_alone():
    """One compiled program over a leading axis, each member with its own clip, state and learning rate."""
    networks = networks_for()
    members = [random_params(networks, seed) for seed in range(3)]
    # The second's gradients are clipped, and must not shrink the others'.
    grads = [
        jax.tree.map(lambda leaf, scale=scale: scale * leaf, random_params(networks, 9 + number))
        for number, scale in enumerate([1e-3, 1e3, 1e-4])
    ]
    rates = jnp.array([1e-2, 1e-3, 1e-4])
    tx = make_finetune_optimizer(dataclasses.replace(CONFIG, eps=1e-3), STEPS, 0.8, "google")

    def train(params, grads, rate):
        state = tx.init(params)
        for _ in range(2):
            direction, state = tx.update(grads, state, params)
            params = jax.tree.map(lambda leaf, by: leaf + rate * by, params, direction)
        return params

    stack = lambda trees: jax.tree.map(lambda *leaves: np.stack(leaves), *trees)  # noqa: E731
    together = quick_jit(jax.vmap(train))(stack(members), stack(grads), rates)
    alone = quick_jit(train)
    for number, (params, own) in enumerate(zip(members, grads, strict=True)):
        expected = by_name(alone(params, own, rates[number]))
        for name, leaf in by_name(together).items():
            np.testing.assert_allclose(leaf[number], expected[name], rtol=1e-5, atol=1e-7, err_msg=name)
            assert (np.asarray(leaf[number]) != by_name(params)[name]).any(), name
