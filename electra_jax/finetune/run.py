"""Wires one fine-tuning: a task's data, the members in chunks that fit memory, the loop and its hooks, the results."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from electra_jax.files import new_folder, write_json
from electra_jax.finetune.chunk import Chunk, Program
from electra_jax.finetune.config import FinetuneConfig, Member, members_of
from electra_jax.finetune.folder import (
    CHECKPOINTS,
    CHUNKS,
    MEMBERS,
    RESULTS,
    START,
    TRAINING,
    claim,
    create,
    is_training,
    keep_most_at_once,
    read_progress,
    remove,
)
from electra_jax.finetune.members import most_at_once, split
from electra_jax.finetune.results import MemberResult, best_of, main_metric, metrics_of, results_json
from electra_jax.finetune.rows import encode_task, fingerprint_of
from electra_jax.finetune.start import NONE, Start, create_start, fingerprint, keep_start
from electra_jax.interop.portable import Portable, write_portable
from electra_jax.model.attention import describe_attention
from electra_jax.model.electra import shapes_of
from electra_jax.pretrain.pretrained import Pretrained
from electra_jax.tasks.data import Data
from electra_jax.training.checkpoint import read_params, write_params
from electra_jax.training.workdir import own


def finetune(config: FinetuneConfig, data: Data, source: Pretrained, out: Path, console: Console) -> list[MemberResult]:
    """Trains every member that has not ended yet, writes the results and the best one's model; returns the results.

    Started again after a kill, it goes on. Raises UserError for an `out` of other settings, data or weights, before
    anything is written; MachineError for faults of the machine; Interrupted on SIGTERM and Ctrl-C.
    """
    start = create_start(config, source)
    weights = fingerprint(start.model.networks, start.tokenizer, start.encoder)
    origin = {**fingerprint_of(data), "model": weights, "step": 0 if config.model == NONE else source.step}
    create(out, config, origin)
    with own(out):
        config = claim(out, config, origin)
        if (out / RESULTS).is_file():
            console.print(f"{out} is finished", highlight=False, soft_wrap=True)
            return _ended(out, config)
        console.print(f"{config.task.name} from {start.story}, into {out}", highlight=False, soft_wrap=True)
        rows = encode_task(data, start.tokenizer, config.length, config.batches == "by_length")
        lengths = sorted({*rows.buckets, *rows.dev_buckets})
        attention = describe_attention(start.model.networks, start.model.kernels, lengths)
        console.print(attention, highlight=False, soft_wrap=True)
        program = Program(config, start, rows)
        if config.model != NONE:
            keep_start(out / START, source)
        fits = most_at_once(start.model, config, max(rows.buckets))
        most = config.runtime.members_at_once or keep_most_at_once(out, fits)
        for members in split(config, _ended(out, config), most, _begun(out), jax.local_device_count()):
            results, params = Chunk(program, members, out, console).train()
            _end_chunk(out, results, params)
        results = _ended(out, config)
        _finish(out, config, start, results, data.notes)
    return results


def _ended(out: Path, config: FinetuneConfig) -> list[MemberResult]:
    """The members whose chunks have ended, in the order of the settings."""
    order = members_of(config)
    found = [result for chunk in (out / CHUNKS).glob(f"[0-9]*/{MEMBERS}") for result in _read_members(chunk)]
    return sorted(found, key=lambda result: order.index(result.member))


def _read_members(path: Path) -> list[MemberResult]:
    return [MemberResult(**values) for values in read_progress(path)]


def _begun(out: Path) -> list[Member]:
    """The members that had a checkpoint when the fine-tuning was last stopped."""
    return [Member(**values) for values in read_progress(out / TRAINING / MEMBERS)] if is_training(out) else []


def _end_chunk(out: Path, results: Sequence[MemberResult], params: Any) -> None:
    (out / CHUNKS).mkdir(exist_ok=True)
    number = max((int(path.name) for path in (out / CHUNKS).glob("[0-9]*")), default=-1) + 1
    with new_folder(out / CHUNKS / str(number)) as folder:
        write_json(folder / MEMBERS, [result._asdict() for result in results])
        write_params(folder / CHECKPOINTS, 0, params)
    remove(out / TRAINING)


def _finish(out: Path, config: FinetuneConfig, start: Start, results: list[MemberResult], notes: Sequence[str]) -> None:
    """Writes the best member's model, and last of all results.json, which says that everything is there."""
    best = best_of(results, main_metric(config)) or results[0]
    chunks = [path.parent for path in (out / CHUNKS).glob(f"[0-9]*/{MEMBERS}")]
    chunk = next(path for path in chunks if best.member in [result.member for result in _read_members(path / MEMBERS)])
    _, params = read_params(chunk / CHECKPOINTS, shapes_of(start.model), 0, report=lambda _: None)
    source = {"format": "fine-tuning", **_story(config, best)}
    write_portable(out, Portable(start.model.networks, params, start.tokenizer, source))
    seconds = sum(_read_members(path / MEMBERS)[0].final["seconds"] for path in chunks)
    about = {"model": config.model, "seconds": round(seconds, 3), "notes": list(notes)}
    write_json(out / RESULTS, results_json(config, results, about))
    # The model is in its own place now.
    for path in (out / START, out / TRAINING, *(path / CHECKPOINTS for path in chunks)):
        remove(path)


def _story(config: FinetuneConfig, best: MemberResult) -> dict[str, Any]:
    """What the model's page says of it: what it learned, from what, how, and how well."""
    task = config.task
    measured = {name: best.final[name] for name in metrics_of([best]) if math.isfinite(best.final[name])}
    about = {"task": task.name, "kind": task.kind, "from": config.model, **best.member._asdict()}
    about |= {"epochs": config.epochs, "length": config.length, "metric": main_metric(config), "measured": measured}
    return about | ({"range": list(task.scale)} if task.kind == "regression" else {})
