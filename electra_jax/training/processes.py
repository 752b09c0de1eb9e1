"""Several processes as one run: how they find each other, agree, wait for each other and end together."""

import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from electra_jax.errors import UserError
from electra_jax.training.lifeline import end_process, lifeline

BY_HAND = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
# How many tasks were started at once: by srun (not by salloc or sbatch alone), by Open MPI's mpirun.
STARTED_TOGETHER = ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")
# Seconds within which all processes must have been started.
PATIENCE = 300


@contextmanager
def joined(environment: Mapping[str, str] = os.environ, report: Callable[[str], None] = print) -> Iterator[None]:
    """Joins the other processes of this run, where there are any; inside, the end of one is the end of all.

    To be entered before the first array is made.
    Raises UserError where the environment says it half. Where the others do not come, the process ends with exit
    code 1 and a sentence.
    """
    about = find_others(environment)
    if about is not None:
        _initialize(about, report)
    with lifeline(report):
        yield


def find_others(environment: Mapping[str, str]) -> dict[str, Any] | None:
    """What `jax.distributed.initialize` is to be told, or None where this process is alone.

    Told by hand in three variables; else JAX finds the others itself under SLURM, Open MPI and on TPU hosts.
    Raises UserError where a variable is missing or is no number.
    """
    given = {name: environment[name] for name in BY_HAND if environment.get(name)}
    together = max(_number(environment, name) for name in STARTED_TOGETHER)
    if len(given) == len(BY_HAND):
        count, index = _number(environment, "JAX_NUM_PROCESSES"), _number(environment, "JAX_PROCESS_ID", least=0)
        if index >= count:
            raise UserError(f"JAX_PROCESS_ID is {index}, but of JAX_NUM_PROCESSES {count} the last is {count - 1}")
        address = given["JAX_COORDINATOR_ADDRESS"]
        return {"coordinator_address": address, "num_processes": count, "process_id": index} if count > 1 else None
    # JAX takes the address from there, and the rest from where it finds it.
    if given and not (together > 1 and set(given) == {"JAX_COORDINATOR_ADDRESS"}):
        missing = [name for name in BY_HAND if name not in given]
        raise UserError(f"{' and '.join(given)} without {' and '.join(missing)}: set all of them, or none")
    return {} if together > 1 or _on_tpu_host(environment) else None


def is_first() -> bool:
    """Whether this process is the one that writes and speaks for all."""
    return jax.process_index() == 0


def wait_for_all(where: str) -> None:
    """Returns when every process is here."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(where)


def make_agreement() -> Callable[[int], int]:
    """A function that says to all processes, in the same call of theirs, the largest of the numbers they gave it.

    Every process must call it equally often. Several processes hear of what was given in the call before, so that
    nobody waits for the slowest.
    """
    if jax.process_count() == 1:
        return lambda number: number
    mesh = jax.make_mesh((jax.device_count(),), ("all",), axis_types=(AxisType.Auto,))
    each, everywhere = NamedSharding(mesh, P("all")), NamedSharding(mesh, P())
    largest = jax.jit(lambda numbers: numbers.max(), out_shardings=everywhere)
    before: jax.Array | None = None

    def agree(number: int) -> int:
        nonlocal before
        mine = np.full(jax.local_device_count(), number, np.int32)
        now = largest(jax.make_array_from_process_local_data(each, mine, (jax.device_count(),)))
        agreed, before = 0 if before is None else int(before), now
        return agreed

    return agree


def _initialize(about: dict[str, Any], report: Callable[[str], None]) -> None:
    # JAX's own service would catch SIGTERM, which the loop does.
    jax.config.update("jax_enable_preemption_service", False)
    whom = f"{about['num_processes']} processes at {about['coordinator_address']}" if about else "the other processes"
    report(f"waiting for {whom}")
    mend = f"look after {', '.join(BY_HAND)}" if about else "look at what the others say"
    late = f"{whom} did not come together within {PATIENCE} s: start all of them, and {mend}"
    # JAX itself would abort with a stack trace, a moment later.
    patience = threading.Timer(PATIENCE, end_process, (late,))
    patience.daemon = True
    patience.start()
    try:
        jax.distributed.initialize(**about, initialization_timeout=PATIENCE + 30)
    except ValueError:
        # No cluster that JAX knows: a TPU host that is alone.
        if about or any(_number(os.environ, name) > 1 for name in STARTED_TOGETHER):
            raise
    finally:
        patience.cancel()


def _number(environment: Mapping[str, str], name: str, least: int = 1) -> int:
    text = environment.get(name) or str(least)
    if not text.isdecimal() or int(text) < least:
        raise UserError(f"{name} must be a number of at least {least}, not {text!r}")
    return int(text)


def _on_tpu_host(environment: Mapping[str, str]) -> bool:
    wanted = "tpu" in environment.get("JAX_PLATFORMS", "tpu")
    chips = [*Path("/dev").glob("accel[0-9]*"), *Path("/dev/vfio").glob("[0-9]*")]
    return wanted and bool(chips) and find_spec("libtpu") is not None
