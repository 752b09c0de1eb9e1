"""Which members train together, and where: in chunks that fit memory, divided among this process's devices."""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from electra_jax.finetune.config import FinetuneConfig, Member, members_of
from electra_jax.finetune.results import MemberResult
from electra_jax.model.electra import Electra, shapes_of

# Of a device's memory; the rest is the compiler's.
SHARE = 0.6
# Copies of the parameters that a step holds: themselves, two moments, gradients and updates.
COPIES = 5


def split(
    config: FinetuneConfig, ended: Sequence[MemberResult], most: int, begun: Sequence[Member], devices: int
) -> Iterator[list[Member]]:
    """The members that have not ended, at most so many at once; those that had begun together first, as they were.

    As many on each device as on the others; what does not divide comes last, one a device.
    """
    done = {result.member for result in ended}
    first = [member for member in begun if member not in done]
    if first and len(first) == len(begun):
        yield first
        done |= set(first)
    waiting = [member for member in members_of(config) if member not in done]
    at_once = min(most, len(waiting)) or 1
    used = min(devices, at_once)
    whole, rows = len(waiting) // used * used, at_once // used
    # Rows of one member a device.
    for part in np.array_split(np.arange(whole).reshape(-1, used), -(-whole // (used * rows)) or 1):
        if part.size:
            yield [waiting[at] for at in part.flat]
    if whole < len(waiting):
        yield waiting[whole:]


def most_at_once(model: Electra, config: FinetuneConfig, longest: int) -> int:
    """Members whose states and activations fit the devices' memory, by a generous count; 1 at least.

    An activation is kept for the backward pass about sixteen times a layer in the hidden size, four times in the
    FFN's and three times for each pair of tokens and head.
    """
    c = model.networks.main
    state = COPIES * 4 * sum(leaf.size for leaf in jax.tree.leaves(shapes_of(model)))
    token = 16 * c.hidden_size + 4 * c.intermediate_size + 3 * c.num_attention_heads * longest
    activations = (
        config.batch_size * longest * c.num_hidden_layers * token * (2 if config.runtime.dtype == "bfloat16" else 4)
    )
    devices = jax.local_devices()
    return max(
        1, len(devices) * int(SHARE * memory_of(devices[0].memory_stats(), len(devices)) / (state + activations))
    )


def memory_of(stats: Mapping[str, int] | None, devices: int, system: Path = Path("/")) -> int:
    """Bytes of each of so many devices, by the `stats` of the first; CPUs have none and share the machine's.

    What the machine has free is told by its files under `system`.
    """
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"])
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    with suppress(OSError):
        for line in (system / "proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                free = 1024 * int(line.split()[1])
    with suppress(OSError, ValueError):  # what a batch system or a container allows; "max" where it does not care
        free = min(free, int((system / "sys/fs/cgroup/memory.max").read_text()))
    return free // devices


def place_members(count: int) -> NamedSharding:
    """The leading axis of `count` members over as many devices as divide it."""
    devices = jax.local_devices()
    used = max(number for number in range(1, len(devices) + 1) if count % number == 0)
    return NamedSharding(Mesh(np.array(devices[:used]), ("members",)), PartitionSpec("members"))
