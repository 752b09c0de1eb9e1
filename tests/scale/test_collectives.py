"""Collectives counted in programs that were compiled for four devices, where their number and bytes are known."""

import re

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from electra_jax.scale.collectives import Traffic, array_bytes, count_collectives

ROWS = 250  # float32 on each of the four devices: 1,000 bytes


def text_of(per_device) -> str:
    """The compiled text of a function of one device's [250] part of a vector."""
    mesh = jax.make_mesh((4,), ("x",))
    function = jax.jit(jax.shard_map(per_device, mesh=mesh, in_specs=P("x"), out_specs=P("x"), check_vma=False))
    given = jax.ShapeDtypeStruct((4 * ROWS,), jnp.float32, sharding=NamedSharding(mesh, P("x")))
    return function.lower(given).compile().as_text()


def repeated(body, times):
    return lambda x: jax.lax.scan(lambda x, _: (body(x), None), x, length=times)[0]


def summed(x):
    return jnp.sin(jax.lax.psum(x, "x"))


def gathered(x):
    return jnp.sin(jax.lax.all_gather(x, "x")).sum(axis=0)


def scattered(x):
    whole = jnp.sin(x[:, None] + jnp.arange(4.0)).T  # [4, 250]
    return jnp.sin(jax.lax.psum_scatter(whole, "x"))


def passed_on(x):
    return jnp.sin(jax.lax.ppermute(x, "x", [(i, (i + 1) % 4) for i in range(4)]))


def exchanged(x):
    return jnp.sin(jax.lax.all_to_all(jnp.sin(x + jnp.arange(4.0)[:, None]), "x", 0, 0)).sum(axis=0)


@pytest.mark.parametrize(
    ("body", "kind", "size"),
    [
        (summed, "all-reduce", 1000),
        (gathered, "all-gather", 4000),
        (scattered, "reduce-scatter", 4000),
        (passed_on, "collective-permute", 1000),
        (exchanged, "all-to-all", 4000),
    ],
)
@pytest.mark.parametrize("times", [1, 7])
def test_each_kind_once_and_in_a_loop(body, kind, size, times):
    found = count_collectives(text_of(repeated(body, times)))
    assert found[kind].bytes == times * size
    assert set(found) == {kind}


def test_a_loop_in_a_loop_and_one_outside():
    text = text_of(lambda x: summed(repeated(repeated(summed, 5), 3)(x)))
    assert count_collectives(text) == {"all-reduce": Traffic(16, 16_000)}


def test_a_loop_whose_count_only_its_condition_tells():
    """As the compiler for TPUs leaves it."""
    text = text_of(repeated(repeated(summed, 5), 3))
    bare, noted = re.subn(r'"known_trip_count":\{"n":"\d+"\},?', "", text)
    assert noted == 2
    assert count_collectives(bare) == count_collectives(text) == {"all-reduce": Traffic(15, 15_000)}


def test_one_device_says_nothing():
    assert count_collectives(jax.jit(jnp.sin).lower(1.0).compile().as_text()) == {}


def test_bytes_of_a_type():
    assert array_bytes("(bf16[1,256]{1,0:T(2,128)(2,1)S(1)}, /*index=1*/f32[], pred[8]{0}, u32[3])") == 512 + 4 + 8 + 12


ASYNCHRONOUS = """
HloModule step

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

%inside (p: f32[8,2]) -> f32[2,2] {
  %p = f32[8,2]{1,0} parameter(0)
  ROOT %rs = f32[2,2]{1,0} reduce-scatter(%p), dimensions={0}, to_apply=%add
}

ENTRY %main (x: f32[8,2]) -> f32[32,2] {
  %x = f32[8,2]{1,0} parameter(0)
  %ag = (f32[8,2]{1,0}, f32[32,2]{1,0}) all-gather-start(%x), dimensions={0}
  %ar = f32[8,2]{1,0} all-reduce-start(%x), to_apply=%add
  %cp = (f32[8,2]{1,0}, f32[8,2]{1,0}, u32[], u32[]) collective-permute-start(%x), source_target_pairs={{0,1}}
  %rs-start = ((f32[8,2]{1,0}), f32[2,2]{1,0}, u32[]) async-start(%x), calls=%inside
  %rs-done = f32[2,2]{1,0} async-done(%rs-start), calls=%inside
  %cp-done = f32[8,2]{1,0} collective-permute-done(%cp)
  %ar-done = f32[8,2]{1,0} all-reduce-done(%ar)
  ROOT %ag-done = f32[32,2]{1,0} all-gather-done(%ag)
}
"""


def test_asynchronous_pairs_count_once():
    """The forms that accelerators have, which a CPU's compiler does not write."""
    assert count_collectives(ASYNCHRONOUS) == {
        "all-reduce": Traffic(1, 64),
        "all-gather": Traffic(1, 256),
        "reduce-scatter": Traffic(1, 64),
        "collective-permute": Traffic(1, 64),
    }
