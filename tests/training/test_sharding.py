from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from electra_jax.config import MeshConfig
from electra_jax.errors import UserError
from electra_jax.model.electra import create_params
from electra_jax.presets import load_preset, with_objective
from electra_jax.pretrain.objectives import OBJECTIVES
from electra_jax.training.optimizer import make_optimizer
from electra_jax.training.sharding import FSDP_MIN_SIZE, create_mesh, place_batch, state_shardings
from electra_jax.training.state import create_state

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.py"))


def shapes_of(config):
    tx = make_optimizer(config.optimizer, config.train.steps)
    create = partial(create_state, tx=tx, metrics=OBJECTIVES[config.objective.name].train_metrics)
    return jax.eval_shape(lambda: create(create_params(config, jax.random.key(0))))


def names_of(path):
    return tuple(entry.key for entry in path if isinstance(entry, jax.tree_util.DictKey))


def test_a_matrix_that_no_table_names_is_refused():
    mesh = create_mesh(MeshConfig(), 8)
    with pytest.raises(KeyError, match=r"\['router'\]\['experts'\]"):
        state_shardings({"router": {"experts": jnp.zeros((4, 8))}}, mesh)
    places = state_shardings({"router": {"kernel": jnp.zeros((4, 8))}, "counts": jnp.zeros(4)}, mesh)
    assert all(place.is_fully_replicated for place in jax.tree.leaves(places))


@pytest.mark.parametrize("objective", ["electra", "mlm"])
@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_leaf_of_every_preset_s_state_has_a_place(path, objective):
    shapes = shapes_of(with_objective(load_preset(path), objective))
    for axes in ({}, {"data": 1, "fsdp": 4}, {"data": 1, "fsdp": 2, "tensor": 2}, {"data": 2, "tensor": 2}):
        mesh = create_mesh(MeshConfig(**axes), 8)
        places = state_shardings(shapes, mesh)
        assert jax.tree.structure(places) == jax.tree.structure(shapes)
        for leaf, place in zip(jax.tree.leaves(shapes), jax.tree.leaves(places), strict=True):
            assert isinstance(place, NamedSharding)
            place.shard_shape(leaf.shape)  # raises where an axis does not divide
        # A parameter's moments lie where it lies: the update needs no communication.
        specs = {names_of(keys): place.spec for keys, place in jax.tree_util.tree_leaves_with_path(places.params)}
        moments = 0
        for keys, place in jax.tree_util.tree_leaves_with_path(places.opt_state):
            owner = [names for names in specs if names_of(keys)[-len(names) :] == names]
            if owner:
                assert [place.spec] == [specs[names] for names in owner], keys
            else:
                assert not any(place.spec), keys
            moments += len(owner)
        assert moments >= len(specs)
        if axes.get("fsdp"):
            held = sum(np.prod(place.shard_shape(leaf.shape)) for leaf, place in
                       zip(jax.tree.leaves(shapes), jax.tree.leaves(places), strict=True))  # fmt: skip
            assert held < 0.8 * sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(
    ("axes", "names", "shape", "spec"),
    [
        ({}, ["encoder", "layer", "attention", "query", "kernel"], (12, 256, 256), P(None, None, None)),
        ({"fsdp": 4}, ["encoder", "layer", "intermediate", "kernel"], (12, 256, 1024), P(None, None, "fsdp")),
        ({"fsdp": 4}, ["embeddings", "word_embeddings"], (30_524, 128), P("fsdp", None)),
        # 30,522 words do not divide by 4.
        ({"fsdp": 4}, ["embeddings", "word_embeddings"], (30_522, 128), P(None, "fsdp")),
        ({"fsdp": 4}, ["encoder", "layer", "output", "bias"], (12, 256), P(None, None)),
        ({"tensor": 4}, ["encoder", "layer", "attention", "value", "kernel"], (12, 256, 256), P(None, None, "tensor")),
        ({"tensor": 4}, ["encoder", "layer", "attention", "output", "kernel"], (12, 256, 256), P(None, "tensor", None)),
        ({"tensor": 4}, ["encoder", "layer", "intermediate", "kernel"], (12, 256, 1024), P(None, None, "tensor")),
        ({"tensor": 4}, ["encoder", "layer", "output", "kernel"], (12, 1024, 256), P(None, "tensor", None)),
        ({"tensor": 2, "fsdp": 2}, ["layer", "intermediate", "kernel"], (12, 256, 1024), P(None, "fsdp", "tensor")),
    ],
)
def test_the_rule(axes, names, shape, spec):
    mesh = create_mesh(MeshConfig(**({"data": 1 if axes else -1} | axes)), 8)
    tree = jax.ShapeDtypeStruct(shape, jnp.float32)
    for name in reversed(names):
        tree = {name: tree}
    (place,) = jax.tree.leaves(state_shardings(tree, mesh))
    assert place.spec == spec
    assert np.prod(shape) >= FSDP_MIN_SIZE or "fsdp" not in spec


@pytest.mark.parametrize(
    ("axes", "batch_size", "words"),
    [
        ({"data": 3}, 6, "needs 3 devices, but there are 4"),
        ({"data": 2, "fsdp": 4}, 8, "needs 8 devices"),
        ({"data": -1, "fsdp": 8}, 8, "needs 8 devices"),
        ({"data": -1, "tensor": 3}, 8, "needs 3 devices"),
        ({}, 6, "cannot be spread over 4 devices"),
        ({"data": 2, "fsdp": 2}, 2, "cannot be spread over 4 devices"),
    ],
)
def test_a_mesh_that_cannot_be_is_one_sentence(axes, batch_size, words):
    with pytest.raises(UserError, match=words):
        create_mesh(MeshConfig(**axes), batch_size)


@pytest.mark.parametrize("axes", [{"data": 0}, {"data": -2}, {"data": -1, "fsdp": -1}])
def test_impossible_axes(axes):
    with pytest.raises(UserError, match="MeshConfig"):
        MeshConfig(**axes)


def test_one_axis_takes_what_is_left():
    assert dict(create_mesh(MeshConfig(), 8).shape) == {"data": 4, "fsdp": 1, "tensor": 1}
    assert dict(create_mesh(MeshConfig(data=2, fsdp=1, tensor=-1), 8).shape) == {"data": 2, "fsdp": 1, "tensor": 2}
    assert create_mesh(MeshConfig(), 1, jax.devices()[:1]).size == 1


def test_rows_are_spread_over_data_and_fsdp():
    mesh = create_mesh(MeshConfig(data=2, fsdp=2), 8)
    ids = np.arange(8 * 5).reshape(8, 5)
    placed = place_batch((ids, np.arange(8)), mesh)
    np.testing.assert_array_equal(placed[0], ids)
    assert [shard.data.shape for shard in placed[0].addressable_shards] == [(2, 5)] * 4
    assert placed[1].sharding.spec == P(("data", "fsdp"))
