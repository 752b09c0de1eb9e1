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
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
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
    parser.add_argument("--out", type=Path, required=True)
    return parser.parse_args()


def run(title: str, command: list[str], seconds: float, stop: float | None = None) -> dict[str, Any]:
    """Runs a command to its end, or sends SIGTERM after `stop` seconds; keeps the end of what it printed."""
    print(f"== {title}", flush=True)
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT)
    try:
        output, _ = process.communicate(timeout=stop or seconds)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGTERM if stop else signal.SIGKILL)
        output, _ = process.communicate()
    expected = (0, 128 + signal.SIGTERM) if stop else (0,)
    tail = "\n".join(output.strip().splitlines()[-12:])
    print(tail, flush=True)
    passed = process.returncode in expected
    return {"title": title, "passed": passed, "seconds": round(time.monotonic() - began, 1), "output": tail}


def device() -> dict[str, str]:
    """What the checks ran on, asked in a process of its own, because a process keeps the GPU's memory."""
    ask = "import jax, json; d = jax.devices()[0]; "
    ask += "print(json.dumps({'platform': d.platform, 'kind': d.device_kind, 'jax': jax.__version__}))"
    done = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def tests(dry: bool) -> dict[str, Any]:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    # The hook that enforces shapes needs beartype, and the other tests need hypothesis; these need neither.
    return run("tests marked gpu", [*command, "tests/test_gpu.py"], 900)


def benchmarks(args: argparse.Namespace, folder: Path) -> list[dict[str, Any]]:
    """The step at the paper's sizes, float32 and bfloat16, beside the peer where it is at hand."""
    shapes = [("small", 128, 128, "bfloat16"), ("small", 128, 128, "float32"), ("base", 64, 512, "bfloat16")]
    few = ["--steps=20", "--warmup=5", "--rounds=3"]
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
    """Five minutes of `small` on real text, stopped by SIGTERM, resumed for a moment, evaluated."""
    cli = [sys.executable, "-c", "from electra_jax.cli import entry; entry()"]
    data, workdir = (args.parts / "data") if args.parts else folder / "none", folder / "run"
    results = []
    more = ["--runtime.dtype=bfloat16", "--runtime.eval-every=2000", "--runtime.save-every=2000"]
    more += ["--train.steps=40000", "--optimizer.warmup-steps=2000"]
    if not (data / "meta.json").is_file():
        if not args.dry:
            return [{"title": "training", "passed": False, "seconds": 0, "output": f"no data set at {data}"}]
        data = folder / "data"
        text = folder / "text.txt"
        text.write_text(
            "\n\n".join(f"the chef number {n} ate meal {n * 7 % 90} at table {n % 11}." for n in range(900))
        )
        prepare = ["prepare", "--corpus", str(text), "--out", str(data), "--length=16", "--vocab-size=64"]
        results.append(run("prepare", [*cli, *prepare, "--valid-share=0.1", "--workers=1"], 300))
    if args.dry:
        more = [*TOY, "--data.length=16", "--model.vocab-size=64", "--runtime.eval-every=1000", "--train.steps=200000"]
    command = [*cli, "pretrain", "--config", "configs/small.py", "--data", str(data), "--workdir", str(workdir), *more]
    results.append(run("small on real text", command, 600, stop=25 if args.dry else 300))
    results.append(run("evaluate", [*cli, "evaluate", "--run", str(workdir), "--data", str(data)], 300))
    lines = (workdir / "metrics.jsonl").read_text().splitlines() if (workdir / "metrics.jsonl").is_file() else []
    results[-1]["figures"] = json.loads(lines[-1]) if lines else None
    return results


def page(results: dict[str, Any]) -> str:
    """The Markdown page."""
    where = results["device"]
    kind = "A dry run at toy sizes: no figure here means anything." if results["dry"] else ""
    text = [f"# Checks on {where['kind']} ({where['platform']}, jax {where['jax']}, {results['date']})", "", kind, ""]
    text += [
        "`scripts/gpu_checks.sh --parts FOLDER` gives this page.",
        "",
        "| check | passed | seconds |",
        "|---|---|---|",
    ]
    text += [f"| {c['title']} | {'yes' if c['passed'] else '**no**'} | {c['seconds']} |" for c in results["checks"]]
    for check in results["checks"]:
        text += ["", f"## {check['title'].capitalize()}", "", "```", check["output"], "```"]
    return "\n".join(text) + "\n"


def main() -> int:
    args = parse()
    if args.dry:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        checks = [tests(args.dry), *benchmarks(args, folder), *training(args, folder)]
    results = {"device": device(), "date": time.strftime("%Y-%m-%d"), "dry": args.dry, "checks": checks}
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(json.dumps(results, indent=2) + "\n")
    (args.out / "results.md").write_text(page(results))
    failed = [check["title"] for check in checks if not check["passed"]]
    print(f"gpu_checks: {len(checks) - len(failed)} of {len(checks)} passed; see {args.out / 'results.md'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
