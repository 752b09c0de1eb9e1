"""What a step needs on the four devices here, and what is tried where that is too much."""

import dataclasses
import os

import jax
import pytest
from tiny_models import make_config

from electra_jax.config import MeshConfig, PretrainConfig
from electra_jax.model.electra import create_model, shapes_of
from electra_jax.scale.fitting import choices, least_bytes, options, plan
from electra_jax.scale.plan import Compiled, compile_step, needed_bytes
from electra_jax.scale.target import Target, devices_here


@pytest.fixture(autouse=True, scope="module")
def quick():
    """The compiler's expensive passes change none of what is asserted here."""
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def here() -> Target:
    return devices_here("float32")


@pytest.fixture(scope="module")
def config() -> PretrainConfig:
    return make_config(train={"batch_size": 64})


@pytest.fixture(scope="module")
def asked(config: PretrainConfig, here: Target) -> Compiled:
    return compile_step(config, here)


def leaf_bytes(tree) -> int:
    return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))


def test_the_parts_of_a_devices_memory(config, here, asked):
    parameters = leaf_bytes(shapes_of(create_model(config)))
    # Parameters and both of Adam's moments, whole on each of the four devices; a few counters and sums.
    assert 3 * parameters <= asked.memory.state <= 3 * parameters + 100
    assert asked.memory.batch == 64 // 4 * 32 * 2
    assert asked.memory.temporaries > parameters  # the gradients alone
    assert asked.needed == asked.memory.total == sum(asked.memory)
    assert 4 * here.memory <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert asked.fits(here.memory)
    assert not asked.fits(asked.needed - 1)


def test_the_gradient_of_every_parameter_is_summed_once_a_step(config, asked):
    parameters = leaf_bytes(shapes_of(create_model(config)))
    # What is read several times may be summed once for each: the tables by both networks, words in the head, too.
    shared = leaf_bytes(shapes_of(create_model(config))["embeddings"])
    assert parameters <= asked.collectives["all-reduce"].bytes <= parameters + 2 * shared
    # Keys are drawn where they are not needed, and some come back.
    assert sum(traffic.bytes for kind, traffic in asked.collectives.items() if kind != "all-reduce") < 10_000


def test_what_does_not_fit_gets_the_cheapest_that_does(config, here, asked):
    products = dataclasses.replace(config, runtime=dataclasses.replace(config.runtime, remat="products"))
    limit = compile_step(products, here).needed
    said: list[str] = []
    tried = plan(config, here, limit, said.append)
    *failed, last = tried
    assert last.fits(limit)
    assert not any(one.fits(limit) for one in failed)
    assert options(config.runtime, last.config.runtime) == ["--runtime.remat products"]
    assert any("trying --runtime.remat products" in line for line in said)
    costs = [choice.cost for choice in choices(config, here)]
    assert costs == sorted(costs)
    assert dataclasses.replace(last.config, runtime=config.runtime) == config


def test_a_state_that_does_not_fit_is_spread_and_nothing_else_is_compiled(here):
    config = make_config(model={"hidden_size": 256, "intermediate_size": 1024, "num_attention_heads": 4})
    whole = choices(config, here)[0].state
    tried = plan(config, here, int(0.9 * whole), lambda line: None)
    layouts = [one.config.runtime.mesh for one in tried[1:]]
    assert layouts == [MeshConfig(fsdp=2), MeshConfig(fsdp=4)][: len(layouts)]
    assert tried[-1].fits(int(0.9 * whole))
    assert tried[-1].memory.state < 0.6 * whole
    assert "all-gather" in tried[-1].collectives


def test_nothing_is_compiled_that_cannot_fit(config, here, asked):
    tried = plan(config, here, 10_000, lambda line: None)
    assert len(tried) == 1
    assert not tried[0].fits(10_000)
    # A quarter of the batch needs at least a quarter of what is not the state.
    quarter = next(
        choice
        for choice in choices(config, here)
        if options(config.runtime, choice.config.runtime) == ["--runtime.micro-batches 4"]
    )
    least = least_bytes(quarter, [asked])
    assert least == pytest.approx(asked.memory.state + (asked.needed - asked.memory.state) / 4, rel=0.01)
    assert least <= compile_step(quarter.config, here).needed


def test_choices_keep_the_batch_whole_and_what_was_asked_for(here):
    config = make_config(train={"batch_size": 24}, runtime={"remat": "products", "micro_batches": 3})
    runtimes = [choice.config.runtime for choice in choices(config, here)]
    assert {runtime.remat for runtime in runtimes} == {"products", "layers"}
    # Parts of 8 rows, and of 4; of 2, four devices have too many.
    assert {runtime.micro_batches for runtime in runtimes} == {3, 6}
    assert {runtime.mesh.fsdp for runtime in runtimes} == {1, 2, 4}


@pytest.mark.parametrize(
    ("said", "needed"),
    [
        ("memory required for HLO temporaries (16.91G) exceeds available HBM (15.75G). HLO", int(16.91 * 2**30)),
        ("memory required for HLO temporaries (3.00T) exceeds", 3 * 2**40),
        ("Ran out of memory in memory space hbm. Used 17.50G of 15.75G hbm.", int(17.5 * 2**30)),
        ("RESOURCE_EXHAUSTED: out of memory", None),
    ],
)
def test_what_the_compiler_says_where_a_step_does_not_fit(said, needed):
    assert needed_bytes(said) == needed
