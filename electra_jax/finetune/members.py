"""Which members train together, and where: in chunks that fit memory, divided among this process's devices."""

import os
from collections.abc import Iterator, Sequence
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
    config: FinetuneConfig, ended: Sequence[MemberResult], most: int, begun: Sequence[Member]
) -> Iterator[list[Member]]:
    """The members that have not ended, at most so many at once; those that had begun together first, as they were."""
    done = {result.member for result in ended}
    first = [member for member in begun if member not in done]
    if first and len(first) == len(begun):
        yield first
        done |= set(first)
    waiting = [member for member in members_of(config) if member not in done]
    at_once = min(config.runtime.members_at_once or most, len(waiting)) or 1
    chunks = -(-len(waiting) // at_once)
    for part in np.array_split(np.arange(len(waiting)), chunks) if chunks else ():
        yield [waiting[at] for at in part]


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
    return max(1, int(SHARE * _memory() / (state + activations)))


def _memory() -> int:
    """Bytes of all of this process's devices; the machine's, where they are CPUs."""
    devices = jax.local_devices()
    stats = devices[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return int(stats["bytes_limit"]) * len(devices)
    with suppress(OSError):
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def place_members(count: int) -> NamedSharding:
    """The leading axis of `count` members over as many devices as divide it."""
    devices = jax.local_devices()
    used = max(number for number in range(1, len(devices) + 1) if count % number == 0)
    return NamedSharding(Mesh(np.array(devices[:used]), ("members",)), PartitionSpec("members"))
