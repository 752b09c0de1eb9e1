"""What to change where a step does not fit: recomputation, micro-batches and sharding, the cheapest first."""

import dataclasses
import math
from collections.abc import Callable
from typing import NamedTuple

import jax

from electra_jax.config import MeshConfig, PretrainConfig, Remat, RuntimeConfig
from electra_jax.errors import UserError
from electra_jax.pretrain.run import plan_state
from electra_jax.scale.plan import Compiled, compile_step, create_mesh
from electra_jax.scale.target import Target
from electra_jax.training.sharding import state_shardings
from electra_jax.training.state import TrainState

# Share of a step's time that computing activations anew adds: an estimate for attention and elementwise work, or a
# whole forward pass, which is a third of a step.
RECOMPUTED: dict[Remat, float] = {"none": 0.0, "products": 0.1, "layers": 1 / 3}
# Tokens on one device that take as long as adding one micro-batch's gradients to the sum: for each parameter, six
# FLOPs a token against twelve bytes, on a v5e.
ADDING = 500
# Gathering the parameters from other devices costs what nobody has measured yet: only where nothing else fits.
SHARDED = 1.0

Say = Callable[[str], None]


class Choice(NamedTuple):
    """Settings to be tried."""

    config: PretrainConfig
    cost: float  # share of a step's time that they are expected to add
    state: int  # bytes of the state on one device


def plan(config: PretrainConfig, target: Target, memory: int | None, say: Say) -> list[Compiled]:
    """The step as it is asked for and, where it does not fit `memory`, what was tried; the last one fits, if any does.

    Raises UserError where mesh or batch do not go with the devices.
    """
    say("compiling the step as it is")
    tried = [compile_step(config, target)]
    say(_verdict(tried[-1], memory))
    if memory is None or tried[-1].fits(memory):
        return tried
    for choice in choices(config, target):
        if least_bytes(choice, tried) > memory:
            continue
        say("trying " + " ".join(options(config.runtime, choice.config.runtime)))
        tried.append(compile_step(choice.config, target))
        say(_verdict(tried[-1], memory))
        if tried[-1].fits(memory):
            break
    return tried


def choices(config: PretrainConfig, target: Target) -> list[Choice]:
    """Every way to do with less memory than as it is asked for, the cheapest first."""
    runtime, mesh = config.runtime, create_mesh(config, target)
    tokens = config.train.batch_size * config.data.length / (mesh.shape["data"] * mesh.shape["fsdp"])
    _, state = plan_state(config, mesh)
    kinds, found = list(RECOMPUTED), []
    for layout in _layouts(runtime.mesh, len(target.devices) // mesh.shape["tensor"]):
        held = None
        for remat in kinds[kinds.index(runtime.remat) :]:
            for doubled in range(config.train.batch_size.bit_length()):
                parts = runtime.micro_batches * 2**doubled
                other = dataclasses.replace(runtime, mesh=layout, remat=remat, micro_batches=parts)
                try:
                    changed = dataclasses.replace(config, runtime=other)
                    spread = create_mesh(changed, target)
                except UserError:  # the batch cannot be cut or spread like this
                    break
                held = state_bytes(state, spread) if held is None else held
                cost = RECOMPUTED[remat] + (parts * ADDING / tokens if parts > 1 else 0)
                found.append(Choice(changed, cost + (SHARDED if layout != runtime.mesh else 0), held))
    return sorted((choice for choice in found if choice.config != config), key=lambda choice: choice.cost)


def _layouts(mesh: MeshConfig, devices: int) -> list[MeshConfig]:
    """This mesh, and those that spread the state over more of the devices."""
    sizes = [2**power for power in range(1, devices.bit_length()) if devices % 2**power == 0]
    return [mesh, *(dataclasses.replace(mesh, data=-1, fsdp=size) for size in sizes if size > mesh.fsdp > 0)]


def state_bytes(state: TrainState, mesh: jax.sharding.Mesh) -> int:
    """What one device of the mesh holds of a state, given its shapes."""
    places = jax.tree.leaves(state_shardings(state, mesh))
    leaves = zip(jax.tree.leaves(state), places, strict=True)
    return sum(math.prod(place.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf, place in leaves)


def least_bytes(choice: Choice, tried: list[Compiled]) -> int:
    """A lower bound on what a device needs: the state, and a share of what the same step took in larger parts.

    Half as large a part takes at least half of all that is not the state.
    """
    runtime, least = choice.config.runtime, choice.state
    for other in tried:
        before = other.config.runtime
        if other.needed is not None and dataclasses.replace(before, micro_batches=runtime.micro_batches) == runtime:
            share = before.micro_batches / runtime.micro_batches
            least = max(least, choice.state + int((other.needed - choice.state) * share))
    return least


def options(asked: RuntimeConfig, other: RuntimeConfig) -> list[str]:
    """What to type to come from one to the other."""
    settings = {
        "remat": (asked.remat, other.remat),
        "micro-batches": (asked.micro_batches, other.micro_batches),
        "mesh.data": (asked.mesh.data, other.mesh.data),
        "mesh.fsdp": (asked.mesh.fsdp, other.mesh.fsdp),
    }
    return [f"--runtime.{name} {new}" for name, (old, new) in settings.items() if new != old]


def show_bytes(size: int) -> str:
    """For people."""
    if size >= 2**30:
        return f"{size / 2**30:.2f} GiB"
    return f"{size / 2**20:.0f} MiB" if size >= 2**20 else f"{size / 2**10:.0f} KiB"


def _verdict(done: Compiled, memory: int | None) -> str:
    needed = "more than a device has" if done.needed is None else f"{show_bytes(done.needed)} a device"
    has = "" if memory is None else f" of {show_bytes(memory)}"
    return f"  {needed}{has}{'' if done.fits(memory) else ', too much'} ({done.seconds:.0f} s)"
