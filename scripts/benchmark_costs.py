#!/usr/bin/env python3
"""What dropout, its random bits, the layout of activations, sampling and fusion each cost in a step.

The train step as it is and the same step with one thing changed, alternating in one process; prints a table.
"""

import argparse
import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
# How each differs from the step as it is.
CHANGES = {
    "as it is": "",
    "no dropout": "both rates 0",
    "attention without dropout": "its rate 0, still by the einsum",
    "threefry bits": "dropout's bits by jax.random instead of the hash",
    "three-dimensional": "every dense layer on [batch, length, hidden] instead of [tokens, hidden]",
    "rolled": "layers in a loop",
    "no draw": "the likeliest token instead of a sampled one",
    "inverse_cdf": "sampled by the inverse of the cumulative distribution instead of Gumbel noise",
    "no fusion": "XLA's fusion pass off",
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=("tiny", "small", "base", "large"), default="small")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=12, help="counted steps of each, alternating")
    parser.add_argument("--changes", nargs="+", choices=tuple(CHANGES), default=tuple(CHANGES))
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def patches(change: str, batch: int) -> list[Any]:
    """What is put in the place of the package's own while the changed step is traced."""
    import flax.linen as nn
    import jax
    import jax.numpy as jnp

    from electra_jax.model import attention, encoder
    from electra_jax.pretrain import objectives

    def by_threefry(
        x: jax.Array, seeds: jax.Array | None, site: Any, rate: float, whole: tuple[int, ...] | None = None
    ) -> jax.Array:
        if seeds is None or rate == 0.0:
            return x
        keys = jax.vmap(lambda pair: jax.random.fold_in(jax.random.wrap_key_data(pair), site))(seeds)
        keep = jax.vmap(lambda key: jax.random.bernoulli(key, 1 - rate, x.shape[1:]))(keys)
        return jnp.where(keep, x / (1 - rate), 0)

    plain: Callable[..., Any] = nn.Dense.__call__

    def in_three_dimensions(dense: nn.Dense, x: jax.Array) -> jax.Array:
        rows = x.reshape(batch, -1, x.shape[-1]) if x.ndim == 2 and x.shape[0] % batch == 0 else x
        return plain(dense, rows).reshape(*x.shape[:-1], -1)

    if change == "threefry bits":
        return [patch.object(module, "dropout", by_threefry) for module in (attention, encoder)]
    if change == "three-dimensional":
        return [patch.object(nn.Dense, "__call__", in_three_dimensions)]
    if change == "no draw":
        return [patch.object(objectives, "sample", lambda logits, keys, objective: jnp.argmax(logits, -1))]
    return []


def make(args: argparse.Namespace, change: str) -> Callable[[Any], float]:
    """The changed step, compiled; takes a batch of ids and returns the seconds it took."""
    import jax

    from electra_jax.presets import load_preset
    from electra_jax.pretrain.run import lower_step, make_step, plan_state
    from electra_jax.scale.plan import SPECIAL
    from electra_jax.training import sharding

    config = load_preset(ROOT / "configs" / f"{args.size}.py")
    model, runtime, objective = config.model, config.runtime, config.objective
    if change == "no dropout":
        model = dataclasses.replace(model, hidden_dropout_prob=0.0)
    if change in ("no dropout", "attention without dropout"):
        model = dataclasses.replace(model, attention_probs_dropout_prob=0.0)
        runtime = dataclasses.replace(runtime, attention="einsum")
    runtime = dataclasses.replace(runtime, unroll_layers=change != "rolled")
    objective = dataclasses.replace(objective, sampler="inverse_cdf" if change == "inverse_cdf" else "gumbel")
    data = dataclasses.replace(config.data, length=args.length)
    train = dataclasses.replace(config.train, batch_size=args.batch)
    config = dataclasses.replace(config, model=model, runtime=runtime, objective=objective, data=data, train=train)
    mesh = sharding.create_mesh(config.runtime.mesh, args.batch, jax.devices()[:1])
    replaced = patches(change, args.batch)
    for one in replaced:
        one.start()
    with jax.set_mesh(mesh):
        state = jax.jit(plan_state(config, mesh)[0])()
        lowered = lower_step(make_step(config, mesh, SPECIAL), config, state, mesh, "uint16")
    for one in replaced:
        one.stop()
    options = {"xla_disable_hlo_passes": "fusion"} if change == "no fusion" else {}
    step = lowered.compile(options)

    def turn(ids: Any) -> float:
        nonlocal state
        began = time.perf_counter()
        state, _ = step(state, sharding.place_batch(ids, mesh))
        jax.block_until_ready(state)
        return time.perf_counter() - began

    return turn


def main() -> None:
    import numpy as np

    from electra_jax.training.host import tune_for_cpu

    args = parse()
    tune_for_cpu()
    steps = {}
    for change in args.changes:
        steps[change] = make(args, change)
        print(f"compiled: {change}", file=sys.stderr)
    draw, seconds = np.random.default_rng(0), {change: [] for change in steps}
    for number in range(2 + args.rounds):
        ids = draw.integers(4, 1000, (args.batch, args.length), dtype=np.uint16)
        for change, step in steps.items():
            took = step(ids)
            if number >= 2:
                seconds[change].append(took)
    usual = statistics.median(seconds[args.changes[0]])
    lines = ["| step | ms | more or less | what is changed |", "|---|---|---|---|"]
    for change, found in seconds.items():
        median = statistics.median(found)
        apart = statistics.median(one - other for one, other in zip(found, seconds[args.changes[0]], strict=True))
        more = f"{1e3 * apart:+.0f} ms ({apart / usual:+.1%})" if CHANGES[change] else ""
        lines.append(f"| {change} | {1e3 * median:.0f} | {more} | {CHANGES[change]} |")
    print("\n".join(lines))
    if args.json:
        args.json.write_text(json.dumps(seconds, indent=1) + "\n")


if __name__ == "__main__":
    main()
