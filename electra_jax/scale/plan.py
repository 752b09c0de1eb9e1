"""What a run's step needs on devices that need not be there: the real step, compiled for them ahead of time."""

import math
import re
import time
from typing import Any, NamedTuple

import jax

from electra_jax.config import PretrainConfig, SpecialTokens
from electra_jax.pretrain.run import lower_step, make_step, plan_state
from electra_jax.scale.collectives import Traffic, count_collectives
from electra_jax.scale.target import Target
from electra_jax.text.rows import row_dtype
from electra_jax.training import sharding
from electra_jax.training.host import resident_bytes

SPECIAL = SpecialTokens(0, 1, 2, 3)  # which ids these are changes nothing of the program's form
UNITS = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Memory(NamedTuple):
    """Bytes on one device while a step runs."""

    state: int  # parameters and moments, and the few numbers beside them
    batch: int
    temporaries: int  # activations, gradients and what else the step computes with
    program: int  # the compiled step itself, where it lies in the device's memory

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


class Compiled(NamedTuple):
    """What became of one choice of settings on the way through the compiler."""

    config: PretrainConfig
    memory: Memory | None  # None where the compiler refused the step, because it does not fit the chip
    needed: int | None  # bytes on one device; None where the compiler refused without saying how much
    collectives: dict[str, Traffic]  # of one device in one step
    flops: float | None  # of one device in one step by the compiler's count, recomputation included; loops count once
    seconds: float  # that tracing and compiling took
    resident: int | None = None  # bytes of this process with the compiled step in it; on a CPU, else None

    def fits(self, memory: int | None) -> bool:
        """True where a device with this much memory can hold it; all that compiles fits an unknown device."""
        return self.memory is not None and (memory is None or self.memory.total <= memory)


def compile_step(config: PretrainConfig, target: Target) -> Compiled:
    """Compiles the train step of a run for the target's devices, and drops it.

    Raises UserError where mesh or batch do not go with the devices.
    """
    began = time.perf_counter()
    mesh = create_mesh(config, target)
    _, state = plan_state(config, mesh)
    dtype = row_dtype(config.model.vocab_size)
    # A key is drawn for it, which under a mesh of devices that are not there cannot be.
    step = make_step(config, mesh, SPECIAL)
    with jax.set_mesh(mesh):
        lowered = lower_step(step, config, state, mesh, dtype)
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return Compiled(config, None, needed_bytes(str(error)), {}, None, time.perf_counter() - began)
    resident = resident_bytes() if target.devices[0].platform == "cpu" else None
    memory = memory_of(compiled, config, mesh)
    collectives = count_collectives(compiled.as_text() or "")
    flops = (compiled.cost_analysis() or {}).get("flops")
    return Compiled(config, memory, memory.total, collectives, flops, time.perf_counter() - began, resident)


def memory_of(compiled: Any, config: PretrainConfig, mesh: jax.sharding.Mesh) -> Memory:
    """What the compiled step of a run needs on one device, by the compiler's own account."""
    stats = compiled.memory_analysis()
    rows = (config.train.batch_size, config.data.length)
    batch = math.prod(sharding.batch_sharding(mesh).shard_shape(rows)) * row_dtype(config.model.vocab_size).itemsize
    return Memory(
        state=stats.argument_size_in_bytes - batch,
        batch=batch,
        # What the step gives back lies where the state lay, but for a few numbers.
        temporaries=stats.temp_size_in_bytes + stats.output_size_in_bytes - stats.alias_size_in_bytes,
        program=stats.generated_code_size_in_bytes,
    )


def create_mesh(config: PretrainConfig, target: Target) -> jax.sharding.Mesh:
    """The mesh of a run on the target's devices. Raises UserError where the two or the batch do not go together."""
    return sharding.create_mesh(config.runtime.mesh, config.rows_at_once, target.devices)


def needed_bytes(error: str) -> int | None:
    """What a program would need, arguments included, as the compiler says where it refuses one for that; else None."""
    found = re.search(r"required for HLO temporaries \(([\d.]+)([KMGT]?)\)|Used ([\d.]+)([KMGT]?)", error)
    if found is None:
        return None
    number, unit = (found[1], found[2]) if found[1] else (found[3], found[4])
    return int(float(number) * UNITS[unit])
