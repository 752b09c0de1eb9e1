"""Stand-ins for the programs of clouds and clusters, which play what those do and write down how they were called.

Run as `python standins.py PROGRAM ARGUMENTS`. The folder STAGE holds what they share: `calls`, a line a call; for
gcloud also `plan.json`, what happens to the slice.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

STAGE = Path(os.environ["STAGE"])


def gcloud(args: list[str]) -> int:
    """Cloud TPU: one slice of the hosts in the plan, given anew at each creation.

    The plan: `states`, the slice's states after each creation; `hosts`, for each creation a list of environments;
    `runs`, what happens at each start of the run: "preempt" takes the slice away once a step is logged, "drop" loses
    the connection as soon as the run is started, "" lets it end.
    """
    where, plan = STAGE / "slice.json", json.loads((STAGE / "plan.json").read_text())
    known: dict[str, Any] = json.loads(where.read_text()) if where.exists() else {"created": 0, "started": 0}
    verb, name = args[3], next((arg for arg in args[4:] if not arg.startswith("-")), "")
    flags = dict(arg.partition("=")[::2] for arg in args if arg.startswith("--"))
    here = [STAGE / f"{known['created']}.{index}" for index in range(len(plan["hosts"][known["created"] - 1]))]
    code = 0
    if verb == "create":
        assert "states" not in known, "it exists already"
        known |= {"name": name, "states": plan["states"][known["created"]], "created": known["created"] + 1}
    elif verb == "list" and "states" in known:
        print(known["states"][0], f"creation {known['created']}", sep="\t")
        known["states"] = known["states"][1:] or known["states"]
    elif verb == "describe":
        print(f"creation {known['created']}")
    elif verb == "delete":
        del known["states"]
    elif verb == "scp":
        for host in here:
            host.mkdir(exist_ok=True)
            (host / "electra-jax.tar.gz").write_bytes(Path(name).read_bytes())
    elif verb == "ssh":
        starts = "tpu_vm.sh" in flags["--command"]
        event = plan["runs"][known["started"]] if starts else ""
        known["started"] += starts
        environments = [os.environ | about for about in plan["hosts"][known["created"] - 1]]
        hosts = [
            subprocess.Popen(
                ["bash", "-c", flags["--command"]], cwd=host, env=about | {"HOME": str(host)}, start_new_session=True
            )
            for host, about in zip(here, environments, strict=True)
        ]
        states = [host / ".local/state/electra_jax/here" for host in here]
        if event == "drop":
            wait_until(lambda: all((state / "pid").exists() for state in states), hosts)
            for process in hosts:
                os.killpg(process.pid, signal.SIGKILL)
            code = 255
        elif event == "preempt":  # a machine that shuts down sends SIGTERM to all that runs there
            metrics = STAGE / "run" / "metrics.jsonl"
            wait_until(lambda: metrics.exists() and metrics.stat().st_size > 0, hosts)
            for state in states:
                os.killpg(int((state / "pid").read_text()), signal.SIGTERM)
            known["states"] = ["SUSPENDED"]
        code = code or next(filter(None, [process.wait() for process in hosts]), 0)
    where.write_text(json.dumps(known))
    return code


def srun(args: list[str]) -> int:
    """SLURM_NTASKS tasks on this machine; SIGTERM reaches all of them, as SLURM's notice does."""
    command, count = [arg for arg in args if not arg.startswith("--")], int(os.environ["SLURM_NTASKS"])
    command = args[args.index(command[0]) :]
    step = {"SLURM_STEP_NODELIST": "localhost", "SLURM_STEP_NUM_NODES": "1", "SLURM_STEP_NUM_TASKS": str(count)}
    tasks = [
        subprocess.Popen(command, env=os.environ | step | {"SLURM_PROCID": str(task), "SLURM_LOCALID": str(task)})
        for task in range(count)
    ]

    def pass_on(signum: int, frame: FrameType | None) -> None:
        for task in tasks:
            task.send_signal(signum)

    signal.signal(signal.SIGTERM, pass_on)
    (STAGE / "srun.pid").write_text(str(os.getpid()))
    return max(task.wait() for task in tasks)


def scontrol(args: list[str]) -> int:
    return 0


def wait_until(happened: Callable[[], bool], processes: list[subprocess.Popen[bytes]]) -> None:
    while not happened() and all(process.poll() is None for process in processes):
        time.sleep(0.02)


if __name__ == "__main__":
    program, *arguments = sys.argv[1:]
    with open(STAGE / "calls", "a", encoding="utf-8") as calls:
        calls.write(" ".join([program, *arguments]) + "\n")
    sys.exit({"gcloud": gcloud, "srun": srun, "scontrol": scontrol}[program](arguments))
