"""The scripts that start runs elsewhere, with stand-ins for the clouds' and clusters' own programs."""

import json
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from runs import SmallRun, joined_by_hand, pretrain_args, quick_environment

from electra_jax.training.metrics import read_metrics

ROOT = Path(__file__).parents[1]
LAUNCH = ROOT / "scripts" / "launch"
SLICE = ("mine", "--zone", "z", "--type", "v5litepod-16", "--version", "v2", "--spot", "--poll", "0")
# Long enough that a run can be stopped on its way.
LONG = ("--train.steps", "100", "--runtime.eval-every", "100", "--runtime.save-every", "50", "--runtime.no-tensorboard")


class Stage:
    """Where a script runs: stand-ins on the PATH, what they were called with, and a run's folders."""

    def __init__(self, folder: Path, data: Path):
        self.folder, self.run, self.data = folder, folder / "run", data
        programs = folder / "programs"
        programs.mkdir()
        for name in ("gcloud", "srun", "scontrol"):
            write_program(programs / name, f'exec {sys.executable} {ROOT}/tests/standins.py {name} "$@"')
        self.environment = quick_environment(STAGE=str(folder), HOME=str(folder), JAX_NUM_CPU_DEVICES="1")
        self.environment["PATH"] = f"{programs}:{self.environment['PATH']}"
        for name in ("XDG_STATE_HOME", "PYTHONPATH"):
            self.environment.pop(name, None)

    def start(self, script: Path, *args: str, **environment: str) -> subprocess.Popen[str]:
        command = [str(script), *args]
        pipe, env = subprocess.PIPE, {**self.environment, **environment}
        return subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True, cwd=self.folder, env=env)

    def pretrain(self, *more: str) -> list[str]:
        args = pretrain_args(self.data, self.run, *LONG, *more)
        return [*args[:2], "configs/tiny.py", *args[3:]]

    def plan(self, **plan: Any) -> None:
        (self.folder / "plan.json").write_text(json.dumps(plan))

    def calls(self) -> list[str]:
        """What was called, by its last word that is no argument: create, scp, ssh, …, looks left out."""
        lines = (self.folder / "calls").read_text().splitlines() if (self.folder / "calls").exists() else []
        verbs = [re.sub(r"gcloud compute tpus (queued-resources|tpu-vm) (\w+) .*", r"\2", line) for line in lines]
        return [verb for verb in verbs if verb != "list"]


@pytest.fixture
def stage(small_run: SmallRun, tmp_path: Path) -> Stage:
    return Stage(tmp_path, small_run.data)


def ended(process: subprocess.Popen[str], code: int) -> str:
    said, _ = process.communicate(timeout=200)
    assert process.returncode == code, said
    assert "Traceback" not in said
    return said


def write_program(path: Path, line: str) -> None:
    path.write_text(f"#!/bin/sh\n{line}\n")
    path.chmod(0o755)


def make_environment(project: Path) -> None:
    """A .venv as `setup tpu` leaves it, of which this Python is the interpreter."""
    (project / ".venv" / "bin").mkdir(parents=True)
    write_program(project / ".venv" / "bin" / "python", f'[ "$*" = "-m pip --version" ] || exec {sys.executable} "$@"')
    entry = '-c "from electra_jax.cli import entry; entry()"'
    write_program(project / ".venv" / "bin" / "electra-jax", f'exec {sys.executable} {entry} "$@"')
    both = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
    wanted = subprocess.run(["cksum"], input=both, capture_output=True, check=True).stdout
    (project / ".venv" / ".installed-tpu").write_bytes(wanted)


def hosts(stage: Stage, creation: int, count: int) -> list[dict[str, str]]:
    """The hosts of a slice, by the environment that each has, with .venv in place."""
    for index in range(count):
        make_environment(stage.folder / f"{creation}.{index}" / "electra-jax")
    return joined_by_hand(count, 1) if count > 1 else [{}]


@pytest.mark.slow
def test_a_slice_that_is_taken_away_is_asked_for_again(stage: Stage) -> None:
    given = ["WAITING_FOR_RESOURCES", "PROVISIONING", "ACTIVE"]
    both = [hosts(stage, 1, 2), hosts(stage, 2, 1)]
    stage.plan(states=[given, given], hosts=both, runs=["preempt", "drop", ""])
    said = ended(stage.start(LAUNCH / "tpu_slice.sh", *SLICE, "--before", "touch ready", "--", *stage.pretrain()), 0)
    each = ["create", "describe", "scp", "ssh", "ssh"]
    assert stage.calls() == [*each, "delete", *each, "ssh", "delete"]
    asked = [line for line in (stage.folder / "calls").read_text().splitlines() if " create " in line]
    wanted = "mine --spot --node-id=mine --accelerator-type=v5litepod-16 --runtime-version=v2 --quiet --zone=z"
    assert asked == [f"gcloud compute tpus queued-resources create {wanted}"] * 2
    for place in ("1.0", "1.1", "2.0"):
        assert (stage.folder / place / "ready").exists()
    # The second slice found the step saved when the first one went, and the last connection the run that went on.
    (stopped,) = set(re.findall(r"stopped by SIGTERM; step (\d+) is saved", said))
    assert said.count(f"resuming {stage.run} at step {stopped}") == 1
    assert [line["step"] for line in read_metrics(stage.run)] == list(range(5, 101, 5))
    assert said.splitlines()[-1].endswith("deleting mine, which is ACTIVE")


@pytest.mark.slow
def test_a_command_to_be_mended_ends_the_launch(stage: Stage) -> None:
    stage.plan(states=[["ACTIVE"]], hosts=[hosts(stage, 1, 1)], runs=[""])
    command = ("pretrain", "--config", "configs/huge.py", "--data", "a b", "--workdir", "run")
    said = ended(stage.start(LAUNCH / "tpu_slice.sh", *SLICE, "--keep", "--", *command), 2)
    assert "base, large, small, small_plus_plus, tiny" in said
    assert stage.calls() == ["create", "describe", "scp", "ssh", "ssh"]
    told = (stage.folder / "1.0/.local/state/electra_jax/here/command").read_text()
    assert told == r"pretrain --config configs/huge.py --data a\ b --workdir run "


def test_a_request_that_is_refused_is_not_made_forever(stage: Stage) -> None:
    stage.plan(states=[["FAILED"]] * 3, hosts=[[{}]] * 3, runs=[])
    said = ended(stage.start(LAUNCH / "tpu_slice.sh", *SLICE, "--", "pretrain"), 1)
    assert "mine was refused three times" in said
    assert stage.calls().count("create") == stage.calls().count("delete") == 3


def test_what_the_script_did_not_create_is_left_alone(stage: Stage) -> None:
    stage.plan(states=[["SUSPENDED"]], hosts=[[{}]], runs=[])
    (stage.folder / "slice.json").write_text(json.dumps({"created": 1, "started": 0, "states": ["SUSPENDED"]}))
    said = ended(stage.start(LAUNCH / "tpu_slice.sh", *SLICE, "--", "pretrain"), 2)
    assert "this script did not create it" in said
    assert stage.calls() == []


def test_a_dry_run_only_says_what_it_would_do(stage: Stage) -> None:
    said = ended(stage.start(LAUNCH / "tpu_slice.sh", *SLICE, "--dry-run", "--", "pretrain", "--data", "a b"), 0)
    planned = [line.split()[3:5] for line in said.splitlines() if not line.startswith("#")]
    assert [verb for _, verb in planned] == ["create", "scp", "ssh", "ssh", "delete"]
    assert stage.calls() == []


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "the first argument is a name"),
        (("Mine", *SLICE[1:], "--", "pretrain"), "not 'Mine'"),
        (("mine", "--zone", "z", "--", "pretrain"), "--zone, --type and --version are needed"),
        ((*SLICE, "--type", "--", "pretrain"), "--type needs a value"),
        ((*SLICE, "--preemptible", "--", "pretrain"), "there is no option --preemptible"),
        ((*SLICE, "pretrain"), "one name is enough: mine or pretrain"),
        ((*SLICE, "--poll", "soon", "--", "pretrain"), "not 'soon'"),
        (SLICE, "say after -- what to run"),
    ],
)
def test_wrong_arguments_for_a_slice(stage: Stage, args: tuple[str, ...], words: str) -> None:
    said = ended(stage.start(LAUNCH / "tpu_slice.sh", *args), 2)
    assert words in said
    assert len(said.splitlines()) == 1
    assert stage.calls() == []


@pytest.mark.slow
def test_a_tpu_vm_runs_one_command_at_a_time_until_it_is_stopped(stage: Stage) -> None:
    project = stage.folder / "project"
    make_environment(project)
    for name in ("scripts", "configs", "electra_jax", "pyproject.toml", "constraints.txt"):
        (project / name).symlink_to(ROOT / name)
    script = project / "scripts" / "launch" / "tpu_vm.sh"
    first = stage.start(script, *stage.pretrain("--train.steps", "100000"))
    while not read_metrics(stage.run) and first.poll() is None:
        time.sleep(0.02)
    first.kill()  # the connection, not the run
    assert "here runs already: electra-jax pretrain" in ended(stage.start(script, "detect"), 2)
    said = ended(stage.start(script, "--stop"), 0)
    assert "stopped by SIGTERM" in said
    assert "ended with exit code 143" in said
    ended(first, -signal.SIGKILL)
    assert "nothing runs here" in ended(stage.start(script, "--stop"), 2)


@pytest.mark.slow
def test_a_slurm_job_goes_back_into_the_queue_and_resumes(stage: Stage) -> None:
    make_environment(stage.folder)
    for name in ("configs", "electra_jax"):
        (stage.folder / name).symlink_to(ROOT / name)
    about = {"SLURM_JOB_ID": str(free_job()), "SLURM_SUBMIT_DIR": str(stage.folder), "SLURM_NTASKS": "2"}
    script, args = LAUNCH / "slurm.sh", stage.pretrain()
    job = stage.start(script, *args, SLURM_CPUS_PER_TASK="1", **about)
    while not read_metrics(stage.run) and job.poll() is None:
        time.sleep(0.02)
    subprocess.run(["kill", "-TERM", (stage.folder / "srun.pid").read_text()], check=True)
    said = ended(job, 128 + signal.SIGTERM)
    options = "--kill-on-bad-exit=0 --gpu-bind=none --cpus-per-task=1"
    assert stage.calls() == [
        f"srun {options} .venv/bin/electra-jax {' '.join(args)}",
        f"scontrol requeue {about['SLURM_JOB_ID']}",
    ]
    (stopped,) = set(re.findall(r"stopped by SIGTERM; step (\d+) is saved", said))
    said = ended(stage.start(script, *args, **about), 0)
    assert said.count(f"resuming {stage.run} at step {stopped}") == 1
    assert [line["step"] for line in read_metrics(stage.run)] == list(range(5, 101, 5))
    assert len(stage.calls()) == 3  # and no second requeue


def test_a_slurm_job_without_an_installation_says_how_to_make_one(stage: Stage) -> None:
    said = ended(stage.start(LAUNCH / "slurm.sh", "pretrain", SLURM_JOB_ID="1", SLURM_SUBMIT_DIR=str(stage.folder)), 2)
    assert "setup cuda" in said
    assert "give this script to sbatch" in ended(stage.start(LAUNCH / "slurm.sh", "pretrain", SLURM_JOB_ID=""), 2)
    assert stage.calls() == []


def test_the_container_is_given_what_its_installation_reads() -> None:
    lines = (LAUNCH / "Containerfile").read_text().splitlines()
    copied = {name for line in lines if line.startswith("COPY") for name in line.split()[1:-1]}
    assert copied == {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "configs", "electra_jax"}
    assert all((ROOT / name).exists() for name in copied)
    # As the first process itself, without a shell before it that would keep SIGTERM.
    assert 'ENTRYPOINT ["electra-jax"]' in lines


def free_job() -> int:
    """The number of a job whose port, which JAX takes from it, is free."""
    while True:
        number = random.randrange(2**12)
        try:
            with socket.create_server(("localhost", 2**16 - 2**12 + number)):
                return number
        except OSError:
            continue
