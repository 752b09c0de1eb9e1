"""When JAX is told of other processes. What they do together is in tests/pretrain/test_processes.py."""

import subprocess
import sys

import pytest
from runs import joined_by_hand, quick_environment

from electra_jax.errors import UserError
from electra_jax.training.processes import find_others, make_agreement

BY_HAND = {"JAX_COORDINATOR_ADDRESS": "node1:1234", "JAX_NUM_PROCESSES": "4", "JAX_PROCESS_ID": "0"}
CPU = {"JAX_PLATFORMS": "cpu"}


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "8"},  # sbatch or salloc before any srun
        {"SLURM_JOB_ID": "7", "SLURM_STEP_NUM_TASKS": "1"},
        {"OMPI_COMM_WORLD_SIZE": "1"},
        BY_HAND | {"JAX_NUM_PROCESSES": "1"},
    ],
)
def test_one_process_stays_alone(environment: dict[str, str]) -> None:
    assert find_others(CPU | environment) is None


def test_by_hand() -> None:
    wanted = {"coordinator_address": "node1:1234", "num_processes": 4, "process_id": 3}
    assert find_others(CPU | BY_HAND | {"JAX_PROCESS_ID": "3"}) == wanted
    # What is said by hand goes before what the cluster says.
    assert find_others(CPU | BY_HAND | {"JAX_PROCESS_ID": "3", "SLURM_STEP_NUM_TASKS": "8"}) == wanted


@pytest.mark.parametrize("name", ["SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"])
def test_tasks_started_together_are_found_by_jax(name: str) -> None:
    assert find_others(CPU | {name: "2"}) == {}
    assert find_others(CPU | {name: "2", "JAX_COORDINATOR_ADDRESS": "node1:1234"}) == {}


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"JAX_PROCESS_ID": ""}, "JAX_COORDINATOR_ADDRESS and JAX_NUM_PROCESSES without JAX_PROCESS_ID"),
        ({"JAX_PROCESS_ID": "", "JAX_NUM_PROCESSES": ""}, "without JAX_NUM_PROCESSES and JAX_PROCESS_ID"),
        ({"JAX_PROCESS_ID": "", "SLURM_STEP_NUM_TASKS": "2"}, "without JAX_PROCESS_ID"),
        ({"JAX_PROCESS_ID": "4"}, "JAX_PROCESS_ID is 4, but of JAX_NUM_PROCESSES 4 the last is 3"),
        ({"JAX_PROCESS_ID": "-1"}, "JAX_PROCESS_ID must be a number of at least 0, not '-1'"),
        ({"JAX_NUM_PROCESSES": "all"}, "JAX_NUM_PROCESSES must be a number of at least 1, not 'all'"),
    ],
)
def test_half_a_word_is_one_sentence(changes: dict[str, str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        find_others(CPU | BY_HAND | changes)


def test_one_process_agrees_with_itself_at_once() -> None:
    agree = make_agreement()
    assert [agree(number) for number in (0, 15, 0)] == [0, 15, 0]


def test_who_waits_in_vain_ends_with_a_sentence() -> None:
    """JAX would abort the process with a stack trace."""
    alone = "import electra_jax.training.processes as processes\nprocesses.PATIENCE = 3\nwith processes.joined(): pass"
    env = quick_environment(**joined_by_hand(2, 1)[1])
    done = subprocess.run([sys.executable, "-c", alone], capture_output=True, text=True, env=env, timeout=100)
    assert done.returncode == 1
    assert done.stdout.startswith("waiting for 2 processes at 127.0.0.1:")
    (said,) = done.stderr.splitlines()
    assert "did not come together within 3 s: start all of them, and look after JAX_COORDINATOR_ADDRESS" in said
