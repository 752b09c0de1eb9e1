"""Which members train together and where, what each of them begins with, sees and draws."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from tiny_models import assert_trees_equal, make_config, quick_jit

from electra_jax.errors import UserError
from electra_jax.finetune.batching import collate
from electra_jax.finetune.chunk import Chunk, Program
from electra_jax.finetune.config import FinetuneRuntime, Member, members_of
from electra_jax.finetune.members import memory_of, most_at_once, place_members, split
from electra_jax.finetune.results import MemberResult
from electra_jax.finetune.start import Start, create_start, open_source
from electra_jax.finetune.step import create_member_state, make_train_step
from electra_jax.interop.hf_tokenizer import write_tokenizer
from electra_jax.interop.huggingface import write_folder
from electra_jax.interop.portable import read_huggingface, write_portable
from electra_jax.networks import NetworksConfig, networks_of
from electra_jax.pretrain.pretrained import Pretrained
from tests.finetune.tiny_programs import tiny_config, tiny_program, tiny_sizes, tiny_source

RATES = (1e-4, 3e-4, 1e-3)
SEEDS = jnp.arange(2, dtype=jnp.uint32)


def ended(some: list[Member]) -> list[MemberResult]:
    return [MemberResult(*member, False, 0, []) for member in some]


@given(st.integers(1, 7), st.integers(1, 3), st.integers(1, 25), st.integers(1, 8), st.data())
def test_every_member_trains_once(seeds: int, rates: int, most: int, devices: int, data: Any) -> None:
    """Those that have ended never again, those that had begun together first; at most so many at once."""
    config = tiny_config(seeds=tuple(range(seeds)), learning_rates=RATES[:rates])
    everyone = members_of(config)
    assert len(set(everyone)) == seeds * rates
    done = data.draw(st.lists(st.sampled_from(everyone), unique=True))
    waiting = [member for member in everyone if member not in done]
    begun = data.draw(st.lists(st.sampled_from(waiting), unique=True)) if waiting else []
    chunks = list(split(config, ended(done), most, begun, devices))
    assert sorted(member for chunk in chunks for member in chunk) == sorted(waiting)
    if begun:
        assert chunks.pop(0) == begun  # as they were, however many that is: their checkpoint has as many
    sizes = [len(chunk) for chunk in chunks]
    assert all(1 <= size <= most for size in sizes)
    # No device has a member more than another, except in the last chunk, which has at most one on each.
    used = min(devices, most, sum(sizes) or 1)
    assert all(size % used == 0 for size in sizes[:-1])
    assert not sizes or sizes[-1] % used == 0 or sizes[-1] < used
    whole = [size // used for size in sizes if size >= used]
    assert not whole or max(whole) - min(whole) <= 1
    assert len(whole) == -(-sum(whole) // (most // used))


def test_what_is_left_of_an_ended_chunk_begins_nothing() -> None:
    """A kill after the results were written leaves the chunk's folder in place: its members do not train again."""
    config = tiny_config()
    first, second = members_of(config)[:2], members_of(config)[2:]
    assert list(split(config, ended(first), 2, first, 1)) == [second]
    assert list(split(config, ended(members_of(config)), 2, second, 1)) == []


@pytest.mark.parametrize(
    ("count", "devices"), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 1), (6, 3), (8, 4), (9, 3), (15, 3)]
)
def test_members_are_divided_among_devices(count: int, devices: int) -> None:
    """Evenly, over as many as that goes for."""
    assert jax.local_device_count() == 4
    place = place_members(count)
    assert len(place.device_set) == devices
    placed = jax.device_put(np.arange(count * 2).reshape(count, 2), place)
    assert {shard.data.shape for shard in placed.addressable_shards} == {(count // devices, 2)}


def test_fewer_members_fit_with_larger_batches_and_longer_rows() -> None:
    model = tiny_source().model
    found = [most_at_once(model, tiny_config(batch_size=8**power), 32) for power in range(1, 9)]
    assert found == sorted(found, reverse=True)
    assert found[0] > found[1] > found[2] > 1
    assert found[-1] == 1  # what does not fit is tried all the same
    lengths = [most_at_once(model, tiny_config(batch_size=64), length) for length in (32, 128, 512)]
    assert lengths[0] > 4 * lengths[1] > 16 * lengths[2]
    half = tiny_config(batch_size=64, runtime=FinetuneRuntime(dtype="bfloat16"))
    assert most_at_once(model, half, 512) > 1.5 * lengths[2]


def test_a_device_that_knows_its_memory_is_believed(tmp_path: Path) -> None:
    assert memory_of({"bytes_limit": 7_000, "bytes_in_use": 5}, 2, tmp_path) == 7_000


def test_cpus_share_what_is_free_and_allowed(tmp_path: Path) -> None:
    """The least of what the kernel says is available and what a container allows, be it a number or none."""
    limit = tmp_path / "sys/fs/cgroup/memory.max"
    unknown = memory_of(None, 4, tmp_path)
    assert 0 < unknown <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 8
    for folder in (tmp_path / "proc", limit.parent):
        folder.mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal:       900 kB\nMemFree:         20 kB\nMemAvailable:    400 kB\n")
    found = [memory_of(None, 4, tmp_path)]
    for allowed in ("max\n", "100000\n", "99999999\n"):
        limit.write_text(allowed)
        found.append(memory_of(None, 4, tmp_path))
    assert found == [400 * 256, 400 * 256, 25_000, 400 * 256]


def parts(params: Any, member: int) -> tuple[Any, Any]:
    """A member's head, and all the rest."""
    own = {name: jax.tree.map(lambda leaf: np.asarray(leaf[member]), tree) for name, tree in params.items()}
    return own.pop("task_head"), own


def differ(one: Any, other: Any) -> bool:
    """Whether any matrix is another; biases begin with 0 everywhere."""
    return any((a != b).any() for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True))


def test_seeds_draw_their_head_alone_where_there_is_an_encoder() -> None:
    source = tiny_source()
    start = create_start(tiny_config(), source)
    params = quick_jit(start.params)(SEEDS, start.encoder)
    (head, encoder), (other_head, other_encoder) = (parts(params, member) for member in range(2))
    assert differ(head, other_head)
    assert_trees_equal(encoder, other_encoder)
    expected = {name: source.params[name] for name in encoder}
    assert_trees_equal(encoder, expected)
    assert start.story == "the discriminator of tiny"


def test_seeds_draw_everything_where_there_is_none() -> None:
    start = create_start(tiny_config(model="none", like="tiny"), tiny_source())
    assert start.encoder is None
    params = quick_jit(start.params)(jnp.array([0, 1, 0], jnp.uint32), None)
    (head, encoder), (other_head, other_encoder), again = (parts(params, member) for member in range(3))
    assert differ(head, other_head)
    for name in encoder:
        assert differ(encoder[name], other_encoder[name]), name
    word = encoder["embeddings"]["word_embeddings"]
    assert (word != other_encoder["embeddings"]["word_embeddings"]).mean() > 0.9
    assert_trees_equal((head, encoder), again)  # the same seed draws the same


@pytest.fixture(scope="module")
def program() -> Program:
    return tiny_program()


def test_seeds_have_their_own_rows_in_steps_of_the_same_length(program: Program) -> None:
    plans = [program.plan(seed) for seed in range(4)]
    for plan in plans[1:]:
        np.testing.assert_array_equal(plan.bucket, plans[0].bucket)
        assert (plan.rows != plans[0].rows).any(1).mean() > 0.8
    assert set(plans[0].bucket.tolist()) == {8, 16}
    np.testing.assert_array_equal(program.plan(1).rows, plans[1].rows)
    per_epoch = len(plans[0].rows) // 3
    for plan in plans:
        for epoch in range(3):
            rows = plan.rows[epoch * per_epoch : (epoch + 1) * per_epoch]
            assert sorted(rows[rows >= 0].tolist()) == list(range(26))


def test_a_chunk_gives_each_member_the_rows_of_its_own_seed(program: Program, tmp_path: Path) -> None:
    members = [Member(seed=seed, learning_rate=rate) for seed, rate in ((1, 1e-3), (0, 1e-4), (1, 1e-4))]
    chunk = Chunk(program, members, tmp_path, Console(quiet=True))
    chunk.checkpoints.close()
    for member, plan in zip(members, chunk.plans, strict=True):
        np.testing.assert_array_equal(plan.rows, program.plan(member.seed).rows)


@pytest.mark.parametrize("dropout", [0.1, 0.0])
def test_seeds_draw_their_own_dropout(program: Program, dropout: float) -> None:
    """Of members with the same parameters and the same rows, and of the steps of one member."""
    start = create_start(tiny_config(dropout=dropout), tiny_source())
    direction = optax.scale(-1.0)  # each update is the gradient itself
    train_step = make_train_step(start.model, program.config.task, start.tokenizer.special, direction)
    batch = collate(program.train_rows, np.tile(np.arange(4), (4, 1)), 8)

    def gradients(encoder: Any, batch: Any) -> tuple[Any, Any]:
        params = start.params(jnp.zeros(4, jnp.uint32), encoder)
        state = jax.vmap(partial(create_member_state, direction=direction))(params)
        state = state._replace(step=jnp.array([0, 0, 0, 1], jnp.int32))
        after, out = train_step(jnp.array([0, 1, 0, 0], jnp.uint32), jnp.ones(4), state, batch)
        return jax.tree.map(jnp.subtract, params, after.params), out["loss"][:, 0]

    found, losses = quick_jit(gradients)(start.encoder, batch)
    one, another_seed, again, another_step = (jax.tree.map(lambda leaf, at=at: leaf[at], found) for at in range(4))
    assert_trees_equal(one, again)
    assert len(set(losses.tolist())) == (3 if dropout else 1)
    for other in (another_seed, another_step):
        for (path, leaf), of_other in zip(
            jax.tree_util.tree_leaves_with_path(one), jax.tree.leaves(other), strict=True
        ):
            name = jax.tree_util.keystr(path)
            assert np.any(leaf != of_other) == (dropout > 0), name


GENERATOR = {"hidden_size": 16, "intermediate_size": 20, "num_hidden_layers": 1}


def test_begins_with_the_generator_of_a_model_that_has_nothing_else() -> None:
    """Pre-trained by masked language modelling alone: no discriminator is there to take."""
    config = make_config(model={"vocab_size": tiny_sizes().vocab_size}, objective={"name": "mlm"})
    source = tiny_source(networks_of(config))
    assert_begins_with_generator(create_start(tiny_config(), source), source)


def test_begins_with_a_generator_from_elsewhere(tmp_path: Path) -> None:
    """Hugging Face's ElectraForMaskedLM, as it is and imported."""
    source = tiny_source(NetworksConfig(generator=tiny_sizes(**GENERATOR)))
    write_folder(tmp_path / "theirs", source.model.networks, source.params, "generator")
    write_tokenizer(source.tokenizer, tmp_path / "theirs", 64)
    write_portable(tmp_path / "imported", read_huggingface(tmp_path / "theirs"))
    for name in ("theirs", "imported"):
        loaded = open_source(str(tmp_path / name), None, print)
        assert loaded.model.networks.discriminator is None
        assert_begins_with_generator(create_start(tiny_config(), loaded), source)


def assert_begins_with_generator(start: Start, source: Pretrained) -> None:
    assert start.story == "the generator of tiny"
    sizes = start.model.networks.main
    expected = source.model.networks.generator
    assert expected is not None
    assert (sizes.hidden_size, sizes.num_hidden_layers) == (expected.hidden_size, expected.num_hidden_layers)
    params = quick_jit(start.params)(SEEDS, start.encoder)
    assert set(params) == {"embeddings", "discriminator_encoder", "task_head"}
    for member in range(2):
        _, own = parts(params, member)
        assert_trees_equal(own["embeddings"], source.params["embeddings"])
        assert_trees_equal(own["discriminator_encoder"], source.params["generator_encoder"])
    assert differ(parts(params, 0)[0], parts(params, 1)[0])


@pytest.mark.parametrize("sharing", ["all", "token", "gdes", "none"])
def test_begins_with_the_discriminator_where_there_are_both(sharing: Any) -> None:
    """Its tables whole, whatever of them it shares with the generator or has as a difference."""
    both = NetworksConfig(discriminator=tiny_sizes(embedding_sharing=sharing), generator=tiny_sizes(**GENERATOR))
    source = tiny_source(both)
    start = create_start(tiny_config(), source)
    assert start.story == "the discriminator of tiny"
    assert start.encoder is not None
    assert_trees_equal(start.encoder.encoder, source.params["discriminator_encoder"])
    found, word = start.encoder.embeddings["word_embeddings"], source.params["embeddings"]["word_embeddings"]
    if sharing == "none":
        word = source.params["discriminator_embeddings"]["word_embeddings"]
    if sharing == "gdes":
        word = word + source.params["discriminator_embeddings"]["word_embeddings"]
    np.testing.assert_array_equal(found, word)
    # The head is put on what the discriminator reads, of the same shapes as a fresh one's.
    shapes = jax.eval_shape(start.params, SEEDS, start.encoder)
    fresh = jax.eval_shape(start.params, SEEDS, None)
    assert jax.tree.map(lambda leaf: leaf.shape, shapes) == jax.tree.map(lambda leaf: leaf.shape, fresh)


def test_the_dropout_is_the_fine_tuning_s_own() -> None:
    sizes = create_start(tiny_config(dropout=0.25), tiny_source()).model.networks.main
    assert (sizes.hidden_dropout_prob, sizes.attention_probs_dropout_prob) == (0.25, 0.25)


def test_rows_longer_than_the_positions_are_refused() -> None:
    assert create_start(tiny_config(length=64), tiny_source()).model.networks.main.max_position_embeddings == 64
    with pytest.raises(UserError, match="pass --length 64"):
        create_start(tiny_config(length=65), tiny_source())
