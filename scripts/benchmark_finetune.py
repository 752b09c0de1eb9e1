#!/usr/bin/env python3
"""How fast fine-tuning is: many seeds in one program against one after the other, and ours against Transformers.

Members: whole processes of the real command, compilation and start-up included, `--seeds N` against N commands of one
seed each, in alternating turns. Peer: steps after the warm-up of an ELECTRA of the paper's form with random weights, on
the rows of the same task, in alternating turns of one process: our program of one member and of N against Transformers'
ElectraForSequenceClassification with torch. Ours pads to length buckets, theirs to the longest row of a batch.

Prints a table of medians and ratios (above 1: faster); --json and --markdown write it to files. Without torch the peer
is left out, and that is said.
"""

import argparse
import dataclasses
import importlib.util
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
COMMAND = (sys.executable, "-c", "from electra_jax.cli import entry; entry()")
Turn = Callable[[int], float]  # so many steps; returns the sequences trained on


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--like", required=True, help="the model whose sizes and tokenizer the random weights have")
    parser.add_argument("--task", default="mrpc", help="a task of one label a text, or its file")
    parser.add_argument("--data", required=True, help="the folder of its files")
    parser.add_argument("--part", choices=("members", "peer", "both"), default="both")
    parser.add_argument("--seeds", type=int, default=8, help="members of the one program")
    parser.add_argument("--epochs", type=float, help="of the members' training; the task's if not given")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--length", type=int, help="of the longest row; the task's if not given")
    parser.add_argument("--steps", type=int, default=10, help="of each turn against the peer")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each, alternating")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--markdown", type=Path)
    return parser.parse_args()


def time_members(args: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Seconds of the wall and of the processors: all seeds in one command, and a command for each."""
    options = ["--model", "none", "--like", args.like, "--task", args.task, "--data", args.data]
    options += ["--learning-rates", "1e-3", "--batch-size", str(args.batch)]
    for name in ("epochs", "length"):
        options += [f"--{name}", str(getattr(args, name))] if getattr(args, name) is not None else []
    together = [["--seeds", str(args.seeds)]]
    apart = [["--seeds", "1", "--first-seed", str(seed)] for seed in range(args.seeds)]
    turns: dict[str, list[dict[str, float]]] = {"one program": [], f"{args.seeds} runs one after the other": []}
    for _ in range(args.rounds):
        for (name, found), commands in zip(turns.items(), (together, apart), strict=True):
            found.append(_run([[*options, *more] for more in commands]))
            print(f"{name}: {found[-1]['seconds']:.1f} s", file=sys.stderr)
    return turns


def _run(commands: list[list[str]]) -> dict[str, float]:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    before, began = _processor_seconds(), time.perf_counter()
    for options in commands:
        with tempfile.TemporaryDirectory() as folder:
            command = [*COMMAND, "finetune", *options, "--out", str(Path(folder) / "out")]
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=env)
        if done.returncode:
            sys.exit(f"the command failed: {(done.stderr.strip().splitlines() or ['no output'])[-1]}")
    return {"seconds": time.perf_counter() - began, "processor_seconds": _processor_seconds() - before}


def _processor_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def time_peer(args: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Seconds a sequence of each: ours alone, ours among N members, Transformers."""
    contestants: dict[str, Turn] = {}
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        print("no torch or no transformers: only ours is measured", file=sys.stderr)
    else:
        contestants["Transformers"] = make_peer(args)
    contestants["ours, one member"] = make_ours(args, 1)
    contestants[f"ours, {args.seeds} members"] = make_ours(args, args.seeds)
    turns: dict[str, list[dict[str, float]]] = {name: [] for name in contestants}
    for _ in range(args.rounds):
        for name, turn in contestants.items():
            used, began = time.process_time(), time.perf_counter()
            sequences = turn(args.steps)
            seconds, processor = time.perf_counter() - began, time.process_time() - used
            turns[name].append({"seconds": seconds / sequences, "processor_seconds": processor / sequences})
            print(f"{name}: {sequences / seconds:.0f} sequences/s", file=sys.stderr)
    return turns


def make_program(args: argparse.Namespace, members: int) -> Any:
    """The real program of so many members, from random weights in the paper's form, which Transformers can express."""
    from rich.console import Console

    from electra_jax.commands.finetuning import RecipeArgs, config_of
    from electra_jax.finetune.chunk import Program
    from electra_jax.finetune.rows import encode_task
    from electra_jax.finetune.start import create_start, open_source
    from electra_jax.model.electra import Electra
    from electra_jax.tasks.data import read_data
    from electra_jax.tasks.known import find_task
    from electra_jax.training.host import tune_for_cpu

    tune_for_cpu()
    console = Console(stderr=True)
    data = read_data(find_task(args.task), args.data, report=console.print)
    source = open_source("none", args.like, console.print)
    recipe = RecipeArgs(
        model="none", like=args.like, seeds=members, batch_size=args.batch, head="huggingface", dropout=0.1,
        length=args.length,
    )  # fmt: skip
    config = config_of(recipe, data.task, source.model.networks.main)
    start = create_start(config, source)
    paper = {"position": "absolute", "norm": "post", "convolution_width": 0, "initialization": "truncated_normal"}
    sizes = dataclasses.replace(start.model.networks.main, **paper)
    networks = dataclasses.replace(start.model.networks, discriminator=sizes)
    start = start._replace(model=Electra(networks, start.model.kernels))
    return Program(config, start, encode_task(data, start.tokenizer, config.length, by_length=True))


def make_ours(args: argparse.Namespace, members: int) -> Turn:
    """Our step as the loop runs it, each bucket's program compiled."""
    import jax
    import jax.numpy as jnp
    import numpy as np

    from electra_jax.finetune.batching import collate
    from electra_jax.finetune.members import place_members

    program, place = make_program(args, members), place_members(members)
    plans = [program.plan(seed) for seed in range(members)]
    seeds, rates = jnp.arange(members, dtype=jnp.uint32), jnp.full(members, 1e-3)
    state = program.fresh(seeds, place)

    def train(step: int) -> None:
        nonlocal state
        numbers = np.stack([plan.rows[step] for plan in plans])
        batch = collate(program.train_rows, numbers, int(plans[0].bucket[step]))
        state, _ = program.step(seeds, rates, state, jax.device_put(batch, place))

    for first in np.unique(plans[0].bucket, return_index=True)[1]:
        train(int(first))
    order = iter(np.resize(np.arange(program.steps), 10**6))

    def turn(steps: int) -> float:
        for _ in range(steps):
            train(int(next(order)))
        jax.block_until_ready(state)
        return steps * members * args.batch

    return turn


def make_peer(args: argparse.Namespace) -> Turn:
    """Transformers' classifier on the same rows, in random order, each batch padded to its longest row."""
    import numpy as np
    import torch
    from transformers import ElectraConfig, ElectraForSequenceClassification

    program = make_program(args, 1)
    sizes, rows = program.start.model.networks.main, program.rows.train
    special = program.start.tokenizer.special
    shared = ("vocab_size", "embedding_size", "hidden_size", "num_hidden_layers", "num_attention_heads")
    shared += ("intermediate_size", "max_position_embeddings", "type_vocab_size", "layer_norm_eps")
    shared += ("hidden_dropout_prob", "attention_probs_dropout_prob")
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(0)
    config = ElectraConfig(
        **{name: getattr(sizes, name) for name in shared}, num_labels=len(program.config.task.labels)
    )
    model = ElectraForSequenceClassification(config).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, eps=1e-6, weight_decay=0.0)

    def batches() -> Iterator[dict[str, torch.Tensor]]:
        draw = np.random.default_rng(0)
        while True:
            order = draw.permutation(len(rows.rows))
            for at in range(0, len(order) - args.batch + 1, args.batch):
                numbers = order[at : at + args.batch]
                length = max(len(rows.rows[number]) for number in numbers)
                ids = np.full((args.batch, length), special.pad)
                for place, number in enumerate(numbers):
                    ids[place, : len(rows.rows[number])] = rows.rows[number]
                ended = np.cumsum(ids == special.sep, 1) - (ids == special.sep)
                yield {
                    "input_ids": torch.from_numpy(ids),
                    "attention_mask": torch.from_numpy((ids != special.pad).astype(np.int64)),
                    "token_type_ids": torch.from_numpy((ended == 1).astype(np.int64)),
                    "labels": torch.tensor([rows.targets["label"][number] for number in numbers]),
                }

    stream = batches()

    def turn(steps: int) -> float:
        for _ in range(steps):
            optimizer.zero_grad()
            model(**next(stream)).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
        return steps * args.batch

    turn(3)
    return turn


def table(turns: dict[str, list[dict[str, float]]], columns: tuple[str, str], scale: float) -> tuple[str, dict]:
    """Medians over the turns; a ratio is the median of the turn-by-turn ratios to the first line.

    On a machine that others use too, the best turns and the processor time say more than the median.
    """
    base = next(iter(turns.values()))
    lines = [f"| | {columns[0]} | best | {columns[1]} | ratio | of the best | of processor time |", "|" + "---|" * 7]
    results: dict[str, Any] = {}
    for name, found in turns.items():
        values = {key: statistics.median(turn[key] for turn in found) for key in found[0]}
        values["best"] = min(turn["seconds"] for turn in found)
        ratios = {
            key: statistics.median(first[key] / own[key] for first, own in zip(base, found, strict=True))
            for key in found[0]
        }
        ratios["best"] = min(turn["seconds"] for turn in base) / values["best"]
        results[name] = {**values, "ratios": ratios, "turns": found}
        cells = [f"{values[key] * scale:,.1f}" for key in ("seconds", "best", "processor_seconds")]
        shown = [f"{ratios[key]:.2f}×" for key in ("seconds", "best", "processor_seconds")]
        cells += ["", "", ""] if found is base else shown
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines), results


def main() -> None:
    args = parse()
    sections, results = [], {}
    if args.part != "peer":
        turns = dict(reversed(time_members(args).items()))
        text, results["members"] = table(turns, ("seconds", "processor seconds"), 1.0)
        epochs = "the task's epochs" if args.epochs is None else f"{args.epochs:g} epochs"
        sections.append(f"{args.task}, {args.seeds} seeds, {epochs}, whole processes, {args.rounds} turns\n\n{text}\n")
    if args.part != "members":
        text, results["peer"] = table(time_peer(args), ("ms a sequence", "processor ms"), 1e3)
        sections.append(f"{args.task}, batch {args.batch}, {args.rounds} turns of {args.steps} steps\n\n{text}\n")
    print("\n".join(sections))
    if args.json:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    if args.markdown:
        args.markdown.write_text("\n".join(sections))


if __name__ == "__main__":
    main()
