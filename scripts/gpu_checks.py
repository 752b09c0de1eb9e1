#!/usr/bin/env python3
"""The GPU checks themselves; scripts/gpu_checks.sh sets up and calls this. Results as JSON and a Markdown page."""

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PARTS = ("tests", "steps", "training")
TOY = [
    "--model.num-hidden-layers=2",
    "--model.hidden-size=64",
    "--model.intermediate-size=128",
    "--model.embedding-size=32",
    "--train.batch-size=8",
    "--runtime.eval-rows=64",
    "--runtime.log-every=2",
]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true")
    parser.add_argument("--parts", type=Path)
    parser.add_argument("--only", choices=PARTS, nargs="+", default=PARTS)
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def run(title: str, command: list[str], seconds: float, stop: Callable[[], bool] | None = None) -> dict[str, Any]:
    """Runs a command to its end, or sends SIGTERM once `stop()` says so; keeps the end of what it printed."""
    print(f"== {title}", flush=True)
    began, signalled = time.monotonic(), False
    with tempfile.TemporaryFile("w+") as said:
        process = subprocess.Popen(command, stdout=said, stderr=subprocess.STDOUT, cwd=ROOT)
        while process.poll() is None:
            if stop is not None and not signalled and stop():
                process.send_signal(signal.SIGTERM)
                signalled = True
            if time.monotonic() - began > seconds:
                process.kill()
            time.sleep(0.2)
        said.seek(0)
        output = said.read()
    tail = "\n".join(output.strip().splitlines()[-12:])
    print(tail, flush=True)
    passed = process.returncode == (128 + signal.SIGTERM if signalled else 0)
    return {"title": title, "passed": passed, "seconds": round(time.monotonic() - began, 1), "output": tail}


def device() -> dict[str, str]:
    """What the checks ran on, asked in a process of its own, because a process keeps the GPU's memory."""
    ask = "import jax, json; d = jax.devices()[0]; "
    ask += "print(json.dumps({'platform': d.platform, 'kind': d.device_kind, 'jax': jax.__version__}))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def tests() -> list[dict[str, Any]]:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests/test_gpu.py"]
    return [run("tests marked gpu", command, 900)]


def steps(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """The step at the paper's sizes, float32 and bfloat16, beside the peer where it is at hand."""
    shapes = [("small", 128, 128, "bfloat16"), ("small", 128, 128, "float32"), ("base", 64, 512, "bfloat16")]
    few = ["--steps=20", "--warmup=5", "--rounds=2"]
    if args.dry:
        shapes, few = [("tiny", 2, 16, "float32")], ["--steps=2", "--warmup=1", "--rounds=1"]
    peer = args.parts / "torch_electra_step.py" if args.parts else ROOT / "no-peer"
    found = []
    for size, batch, length, dtype in shapes:
        target = folder / f"{size}-{length}-{dtype}.json"
        command = [sys.executable, "scripts/benchmark_step.py", f"--size={size}", f"--batch={batch}"]
        command += [f"--length={length}", f"--dtype={dtype}", f"--peer={peer}", f"--json={target}", *few]
        command += ["--variants=full,gathered,gathered+compile"]
        result = run(f"step of {size}, batch {batch}, length {length}, {dtype}", command, 600)
        found.append(result | {"figures": json.loads(target.read_text()) if target.is_file() else None})
    return found


def training(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """Four minutes of `small` on real text, stopped by SIGTERM, resumed for a moment, evaluated."""
    cli = [sys.executable, "-c", "from electra_jax.cli import entry; entry()"]
    workdir, results = folder / "run", []
    if args.dry:
        data, text = folder / "data", folder / "text.txt"
        text.write_text(
            "\n\n".join(f"the chef number {n} ate meal {n * 7 % 90} at table {n % 11}." for n in range(900))
        )
        prepare = ["prepare", "--corpus", str(text), "--out", str(data), "--length=16", "--vocab-size=64"]
        results.append(run("prepare", [*cli, *prepare, "--valid-share=0.1", "--workers=1"], 300))
        more = [*TOY, "--data.length=16", "--model.vocab-size=64", "--runtime.eval-every=1000", "--train.steps=200000"]
    else:
        data = (args.parts or folder) / "data"
        if not (data / "meta.json").is_file():
            return [{"title": "training", "passed": False, "seconds": 0, "output": f"no data set at {data}"}]
        more = ["--runtime.dtype=bfloat16", "--runtime.eval-every=2000", "--runtime.save-every=2000"]
        more += ["--train.steps=40000", "--optimizer.warmup-steps=2000"]
    command = [*cli, "pretrain", "--config", "configs/small.py", "--data", str(data), "--workdir", str(workdir), *more]
    trained = 0 if args.dry else 240  # seconds

    def last() -> dict[str, Any]:
        path = workdir / "metrics.jsonl"
        lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
        return json.loads(lines[-1]) if lines and lines[-1].endswith("\n") else {"step": 0, "seconds": 0}

    results.append(run("small on real text", command, 900, lambda: last()["step"] > 0 and last()["seconds"] >= trained))
    stopped_at = last()["step"]
    resumed = run("resumed", command, 300, lambda: last()["step"] > stopped_at)
    resumed["passed"] = resumed["passed"] and "resuming" in resumed["output"]
    results.append(resumed)
    results.append(run("evaluate", [*cli, "evaluate", "--run", str(workdir), "--data", str(data)], 300))
    results[-1]["figures"] = last()
    return results


def page(parts: dict[str, Any]) -> str:
    """The Markdown page of all parts that have been run, each with where and when."""
    text = ["# Checks on an accelerator", ""]
    text += ["`scripts/gpu_checks.sh --parts FOLDER [--only PART]` gives this page.", ""]
    for name, part in parts.items():
        where = part["device"]
        kind = " A dry run at toy sizes: no figure here means anything." if part["dry"] else ""
        text += [f"## {name.capitalize()}", ""]
        text += [f"{part['date']}, {where['kind']} ({where['platform']}), jax {where['jax']}.{kind}", ""]
        text += ["| check | passed | seconds |", "|---|---|---|"]
        text += [f"| {c['title']} | {'yes' if c['passed'] else '**no**'} | {c['seconds']} |" for c in part["checks"]]
        for check in part["checks"]:
            text += ["", f"### {check['title'].capitalize()}", "", "```", check["output"], "```"]
        text += [""]
    return "\n".join(text)


def main() -> int:
    args = parse()
    if args.dry:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ["ELECTRA_JAX_GPU_CHECKS"] = "1"
    where = device()
    if where["platform"] == "cpu" and not args.dry:
        print(
            "gpu_checks: jax sees no accelerator here; --dry runs everything on the CPU at toy sizes", file=sys.stderr
        )
        return 2
    found = {}
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        checks = {"tests": tests, "steps": lambda: steps(args, folder), "training": lambda: training(args, folder)}
        for name in args.only:
            about = {"device": where, "date": time.strftime("%Y-%m-%d"), "dry": args.dry}
            found[name] = about | {"checks": checks[name]()}
    args.out.mkdir(parents=True, exist_ok=True)
    kept = args.out / "results.json"  # what an earlier call found of other parts stays
    before = json.loads(kept.read_text()) if kept.is_file() else {}
    parts = {name: (before | found)[name] for name in PARTS if name in before | found}
    kept.write_text(json.dumps(parts, indent=2) + "\n")
    (args.out / "results.md").write_text(page(parts))
    run_now = [check for part in found.values() for check in part["checks"]]
    failed = [check["title"] for check in run_now if not check["passed"]]
    print(f"gpu_checks: {len(run_now) - len(failed)} of {len(run_now)} passed; see {args.out / 'results.md'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
