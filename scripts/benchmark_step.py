#!/usr/bin/env python3
"""Ours and the PyTorch peer's joint pre-training step, the same shapes, alternating in one run.

Prints a table of medians and ratios (above 1: ours is faster) and one of our step's phases, each compiled alone; --json
and --markdown write them to files. The peer is a script that prints one JSON line with `ms`; without it, or without
torch, only ours is measured and that is said.
"""

import argparse
import dataclasses
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "small", "base", "large"), default="small")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--sampler", choices=("gumbel", "inverse_cdf"), default="gumbel")
    parser.add_argument("--rolled", action="store_true", help="layers in a rolled loop")
    parser.add_argument("--steps", type=int, default=12, help="counted steps of each turn")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=3, help="turns of each, alternating")
    parser.add_argument("--variants", default="full,gathered,full+compile,gathered+compile", help="the peer's")
    parser.add_argument("--peer", type=Path, default=ROOT.parent / "shared" / "peers" / "torch_electra_step.py")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    parser.add_argument("--ours", action="store_true", help="measure one turn of ours and print its JSON line")
    parser.add_argument("--phases", action="store_true", help="with --ours: the phases too")
    return parser.parse_args()


def measure_ours(args: argparse.Namespace) -> dict[str, Any]:
    """One turn: the real train step on rows that are full of random tokens, as the peer's are."""
    import jax
    import numpy as np

    from electra_jax.config import SpecialTokens
    from electra_jax.model.flops import train_step_flops
    from electra_jax.presets import load_preset
    from electra_jax.pretrain.run import create_model_on, plan_state
    from electra_jax.pretrain.step import make_train_step
    from electra_jax.scale.phases import time_phases
    from electra_jax.training import sharding
    from electra_jax.training.host import tune_for_cpu
    from electra_jax.training.optimizer import make_optimizer
    from electra_jax.training.throughput import peak_flops

    tune_for_cpu()
    config = load_preset(ROOT / "configs" / f"{args.size}.py")
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, length=args.length),
        train=dataclasses.replace(config.train, batch_size=args.batch),
        objective=dataclasses.replace(config.objective, sampler=args.sampler),
        runtime=dataclasses.replace(config.runtime, dtype=args.dtype, unroll_layers=not args.rolled),
    )
    special = SpecialTokens(0, 1, 2, 3)
    mesh = sharding.create_mesh(config.runtime.mesh, args.batch, jax.devices()[:1])
    with jax.set_mesh(mesh):
        state = jax.jit(plan_state(config, mesh)[0])()
        tx = make_optimizer(config.optimizer, config.train.steps)
        step = jax.jit(make_train_step(config, create_model_on(config, mesh), tx, special), donate_argnums=0)
        draw, times = np.random.default_rng(0), []
        for _ in range(args.warmup + args.steps):
            ids = draw.integers(4, config.model.vocab_size, (args.batch, args.length), dtype=np.uint16)
            ids[:, 0], ids[:, -1] = special.cls, special.sep
            start = time.perf_counter()
            state, _ = step(state, sharding.place_batch(ids, mesh))
            jax.block_until_ready(state)
            times.append(time.perf_counter() - start)
        phases = time_phases(config, state.params, ids, special, mesh, args.steps) if args.phases else None
    median = statistics.median(times[args.warmup :])
    peak = peak_flops(jax.devices()[0], args.dtype)
    return {
        "ms": median * 1e3,
        "min_ms": min(times) * 1e3,
        "tokens_per_second": args.batch * args.length / median,
        "mfu": train_step_flops(config) / median / peak if peak else None,
        "first_step_seconds": times[0],
        "phases_ms": phases and {name: seconds * 1e3 for name, seconds in phases.items()},
        "device": jax.devices()[0].device_kind,
        "jax": jax.__version__,
    }


def run(command: list[str]) -> dict[str, Any] | None:
    """A turn in a process of its own; None where it fails."""
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=False, cwd=ROOT)
    if done.returncode:
        print(f"{command[0]} failed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}", file=sys.stderr)
        return None
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    args = parse()
    if args.ours:
        print(json.dumps(measure_ours(args)))
        return
    shape = ["--size", args.size, "--batch", str(args.batch), "--length", str(args.length)]
    shape += ["--steps", str(args.steps), "--warmup", str(args.warmup)]
    ours = [__file__, "--ours", *shape, "--dtype", args.dtype, "--sampler", args.sampler]
    contestants = {"ours": ours + (["--rolled"] if args.rolled else [])}
    if args.peer.is_file():
        for variant in filter(None, args.variants.split(",")):
            name, *flags = variant.split("+")
            more = [f"--{flag}" for flag in flags] + (["--bf16"] if args.dtype == "bfloat16" else [])
            contestants[f"peer {variant}"] = [str(args.peer), "--variant", name, *shape, *more]
    else:
        print(f"no peer at {args.peer}: only ours is measured", file=sys.stderr)
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in contestants}
    for number in range(args.rounds):
        for name, command in contestants.items():
            last = name == "ours" and number == args.rounds - 1
            result = run([*command, *(["--phases"] if last else [])])
            if result is not None:
                turns[name].append(result)
                print(f"turn {number + 1}: {name} {result['ms']:.1f} ms", file=sys.stderr)
    report(args, turns)


def report(args: argparse.Namespace, turns: dict[str, list[dict[str, Any]]]) -> None:
    """Medians over the turns; the ratio is the median of the turn-by-turn ratios."""
    lines = ["| step | median ms | tokens/s | MFU | ours is faster by |", "|---|---|---|---|---|"]
    flops = [turn["mfu"] * turn["ms"] for turn in turns["ours"] if turn["mfu"]]
    results: dict[str, Any] = {}
    for name, found in turns.items():
        if not found:
            continue
        median = statistics.median(turn["ms"] for turn in found)
        pairs = [peer["ms"] / own["ms"] for own, peer in zip(turns["ours"], found, strict=False)]
        ratio = statistics.median(pairs)
        rate = args.batch * args.length / median * 1e3
        results[name] = {"ms": median, "tokens_per_second": rate, "ratio": ratio, "turns": found}
        # All count as what ours computes: the peer's scores of every position are work, but nobody asked for it.
        mfu = f"{statistics.median(flops) / median:.1%}" if flops else ""
        lines.append(f"| {name} | {median:.1f} | {rate:,.0f} | {mfu} | {'' if name == 'ours' else f'{ratio:.2f}×'} |")
    phases = turns["ours"][-1]["phases_ms"] if turns["ours"] else None
    if phases:
        lines += ["", "| our step's phases, each alone | ms |", "|---|---|"]
        lines += [f"| {name} | {ms:.1f} |" for name, ms in phases.items()]
        lines.append(f"| together | {sum(phases.values()):.1f} |")
    title = f"{args.size}, batch {args.batch}, length {args.length}, {args.dtype}, {args.sampler}"
    text = f"{title}\n\n" + "\n".join(lines) + "\n"
    print(text)
    if args.json:
        args.json.write_text(json.dumps({"title": title, "results": results}, indent=2) + "\n")
    if args.markdown:
        args.markdown.write_text(text)


if __name__ == "__main__":
    main()
