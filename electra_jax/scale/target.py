"""The devices that a run is planned for: those at hand, or a TPU slice that isn't there."""

import importlib.util
import os
import re
from typing import NamedTuple

import jax
from jax.experimental import topologies

from electra_jax.errors import UserError
from electra_jax.training.throughput import known_peak, peak_flops

GIB = 2**30
# What a program may use of a chip's memory, as the compiler states it where one does not fit (libtpu 0.0.52).
CHIP_MEMORY = {"TPU v5 lite": 15.75 * GIB, "TPU v6 lite": 31.24 * GIB, "TPU v5": 95.73 * GIB}
# How a slice of each type is named, with the most chips of an axis that there are to rent.
SLICES = {"v5e": r"(\d+)x(\d+)", "v6e": r"(\d+)x(\d+)", "v5p": r"(\d+)x(\d+)x(\d+)"}
LONGEST = {"v5e": 16, "v6e": 16, "v5p": 28}
# libtpu looks for the chips of its own machine, and for the metadata server of a Google machine, unless told.
WITHOUT_A_TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


class Target(NamedTuple):
    """Devices of one kind. Bytes and FLOP/s are of one device; None where nothing says how much it has."""

    name: str  # the topology, or "here"
    devices: list[jax.Device]
    hosts: int
    memory: int | None
    peak: float | None

    @property
    def kind(self) -> str:
        """The device kind by its vendor's name."""
        return self.devices[0].device_kind


def devices_here(dtype: str) -> Target:
    """The devices that a run would use on this machine. A CPU has the machine's memory, its devices a share of it."""
    devices = jax.devices()
    memory: int | None
    if devices[0].platform == "cpu":
        memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // len(devices)
    else:
        memory = (devices[0].memory_stats() or {}).get("bytes_limit")
    return Target("here", devices, jax.process_count(), memory, peak_flops(devices[0], dtype))


def devices_of_slice(topology: str, dtype: str) -> Target:
    """The chips of a TPU slice by name, as libtpu's compiler knows them; jax itself must be on the CPU by then.

    Raises UserError for a name that no slice has, and where libtpu is not installed.
    """
    kind, _, shape = topology.partition(":")
    sizes = re.fullmatch(SLICES[kind], shape) if kind in SLICES else None
    if sizes is None or not all(1 <= int(size) <= LONGEST[kind] for size in sizes.groups()):
        raise UserError(
            f"there is no TPU slice {topology!r}: --topology is v5e:2x2 to v5e:16x16, v6e:2x2 to v6e:16x16, or of v5p "
            "three sizes as in v5p:8x8x8; without it, the devices at hand"
        )
    if importlib.util.find_spec("libtpu") is None:
        raise UserError(
            "the compiler for TPUs, libtpu, is not installed: pip install -c constraints.txt -e '.[tpu-plan]'"
        )
    for name, value in WITHOUT_A_TPU.items():
        os.environ.setdefault(name, value)
    try:
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology)
    except jax.errors.JaxRuntimeError as error:
        said = str(error).partition("\n")[0]
        raise UserError(f"libtpu knows no TPU slice {topology!r} ({said}): mend --topology") from None
    devices: list[jax.Device] = list(described.devices)
    hosts = len({device.process_index for device in devices})
    peak = known_peak(devices[0].device_kind, dtype)
    return Target(topology, devices, hosts, int(CHIP_MEMORY[devices[0].device_kind]), peak)
