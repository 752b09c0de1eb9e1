#!/usr/bin/env python3
"""How a step's time and memory grow with batch, length, layers and devices, one at a time: a picture and a table.

Each point is a process of its own. On a CPU the devices are simulated: they share its cores, so the most that more of
them can show is that a step of the same batch takes no longer.
"""

import argparse
import dataclasses
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
USUAL = {"batch": 8, "length": 128, "layers": 4, "devices": 1, "fsdp": 1}
AXES = {
    "batch": (2, 4, 8, 16, 32),
    "length": (32, 64, 128, 256, 512),
    "layers": (1, 2, 4, 8, 12),
    "devices": (1, 2, 4, 8),  # each with the whole state and its share of the rows
    "fsdp": (1, 2, 4, 8),  # devices, each with its share of the state too
}
SIMULATED = ("devices", "fsdp")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "small", "base", "large"), default="small")
    parser.add_argument("--steps", type=int, default=5, help="counted steps a point")
    parser.add_argument("--axes", nargs="+", choices=tuple(AXES), default=tuple(AXES))
    parser.add_argument("--most", type=int, default=5, help="points an axis")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results" / "scaling.png")
    parser.add_argument("--json", type=Path, help="the points; where it exists, they are drawn and nothing is measured")
    parser.add_argument("--point", type=json.loads, help="measure this one and print its JSON line")
    return parser.parse_args()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """One point: the real step, its median time and what one device holds of it by the compiler's account."""
    import jax
    import numpy as np

    from electra_jax.config import MeshConfig
    from electra_jax.presets import load_preset
    from electra_jax.pretrain.run import lower_step, make_step, plan_state
    from electra_jax.scale.plan import SPECIAL, create_mesh, memory_of
    from electra_jax.scale.target import devices_here
    from electra_jax.text.rows import row_dtype
    from electra_jax.training.host import tune_for_cpu
    from electra_jax.training.sharding import place_batch

    tune_for_cpu()
    config, point = load_preset(ROOT / "configs" / f"{args.size}.py"), args.point
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, length=point["length"]),
        model=dataclasses.replace(config.model, num_hidden_layers=point["layers"]),
        train=dataclasses.replace(config.train, batch_size=point["batch"]),
        runtime=dataclasses.replace(config.runtime, mesh=MeshConfig(fsdp=point["fsdp"])),
    )
    mesh, dtype = create_mesh(config, devices_here("float32")), row_dtype(config.model.vocab_size)
    step_fn = make_step(config, mesh, SPECIAL)
    with jax.set_mesh(mesh):
        fresh, wanted = plan_state(config, mesh)
        state = jax.jit(fresh, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, wanted))()
        step = lower_step(step_fn, config, state, mesh, dtype).compile()
        draw, seconds = np.random.default_rng(0), []
        for _ in range(2 + args.steps):
            ids = draw.integers(4, config.model.vocab_size, (point["batch"], point["length"])).astype(dtype)
            began = time.perf_counter()
            state, out = step(state, place_batch(ids, mesh))
            jax.block_until_ready((state, out))
            seconds.append(time.perf_counter() - began)
    memory = memory_of(step, config, mesh)
    more = {"state": memory.state, "temporaries": memory.temporaries}
    return {**point, "ms": 1e3 * statistics.median(seconds[2:]), **more}


def run(args: argparse.Namespace, point: dict[str, int]) -> dict[str, Any]:
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": str(point["devices"] * point["fsdp"])}
    command = [sys.executable, __file__, f"--size={args.size}", f"--steps={args.steps}", "--point", json.dumps(point)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=env)
    if done.returncode:
        sys.exit(f"{point} failed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    print(f"{point}: {found['ms']:.0f} ms, {found['temporaries'] / 1e6:.0f} MB of temporaries", file=sys.stderr)
    return found


def draw(axes: dict[str, list[dict[str, Any]]], size: str, out: Path) -> None:
    """Time above, memory of one device below; dotted is what grows in proportion to the axis."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    size_of_all = (3.6 * len(axes), 6.2)
    figure, panels = pyplot.subplots(2, len(axes), figsize=size_of_all, constrained_layout=True, squeeze=False)
    for column, (axis, points) in enumerate(axes.items()):
        along = [point[axis] for point in points]
        upper, lower = panels[0][column], panels[1][column]
        times = [point["ms"] for point in points]
        upper.plot(along, times, marker="o")
        if axis not in SIMULATED:
            in_proportion = [times[-1] * value / along[-1] for value in along]
            upper.plot(along, in_proportion, ":", color="grey", label="proportional")
            upper.legend(fontsize=8, frameon=False)
        upper.set_title(f"a step by {axis}", fontsize=10)
        lower.stackplot(
            along,
            [point["state"] / 1e6 for point in points],
            [point["temporaries"] / 1e6 for point in points],
            labels=("parameters and moments", "activations, gradients, temporaries"),
            alpha=0.7,
        )
        lower.set_xlabel(f"{axis}, simulated" if axis in SIMULATED else axis)
        if not column:
            upper.set_ylabel("ms")
            lower.set_ylabel("MB on one device")
            lower.legend(fontsize=8, frameon=False, loc="upper left")
        for panel in (upper, lower):
            panel.set_ylim(bottom=0)
            panel.set_xticks(along)
            panel.tick_params(labelsize=8)
            panel.grid(alpha=0.25)
    usual = ", ".join(f"{name} {value}" for name, value in USUAL.items())
    figure.suptitle(f"{size}, float32; what does not vary: {usual}", fontsize=11)
    aside = out.with_name(f".{out.stem}.part.png")
    figure.savefig(aside, dpi=110)
    aside.replace(out)


def table(axes: dict[str, list[dict[str, Any]]]) -> str:
    lines = ["| varied | ms a step | state, MB a device | temporaries, MB a device |", "|---|---|---|---|"]
    for axis, points in axes.items():
        for point in points:
            megabytes = [point[name] / 1e6 for name in ("state", "temporaries")]
            lines.append(f"| {axis} {point[axis]} | {point['ms']:.0f} | {megabytes[0]:.0f} | {megabytes[1]:.0f} |")
    return "\n".join(lines)


def main() -> None:
    args = parse()
    if args.point is not None:
        print(json.dumps(measure(args)))
        return
    if args.json is not None and args.json.is_file():
        axes = json.loads(args.json.read_text())
    else:
        axes = {axis: [run(args, USUAL | {axis: value}) for value in AXES[axis][: args.most]] for axis in args.axes}
        if args.json:
            args.json.write_text(json.dumps(axes, indent=1) + "\n")
    draw(axes, args.size, args.out)
    print(table(axes))


if __name__ == "__main__":
    main()
