"""The folder of a fine-tuning.

finetune.json    the settings, what it begins with and learns from by checksum, and how many members train at once
start/           the model that it begins with, which may be gone where it came from; gone at the end
members/         a folder for each chunk that has ended: its members' results, and its best one's parameters
training/        the chunk that is training: which members, and their checkpoints; gone at the end
results.json, curves.png, model.json, tokenizer/, checkpoints/0: at the end
"""

import dataclasses
import os
import secrets
import shutil
from pathlib import Path
from typing import Any

from electra_jax.errors import UserError
from electra_jax.files import new_folder, read_json, write_json
from electra_jax.finetune.config import FinetuneConfig
from electra_jax.settings import from_json, to_json

SETTINGS, RESULTS, MEMBERS = "finetune.json", "results.json", "members.json"
START, CHUNKS, TRAINING, CHECKPOINTS = "start", "members", "training", "checkpoints"
PLACES = ("model", "like", "task.train", "task.dev", "task.test")
# How files are read: what was read of them has its checksum.
READ_BY = ("task.layout", "task.text", "task.pair", "task.label", "task.leave_out_broken")


def create(out: Path, config: FinetuneConfig, origin: dict[str, Any]) -> None:
    """Makes a fine-tuning's folder, unless it is there. Raises UserError where `out` holds something else."""
    if not (out / SETTINGS).is_file():
        with new_folder(out) as folder:
            write_json(folder / SETTINGS, {"settings": to_json(config), "origin": origin})


def claim(out: Path, config: FinetuneConfig, origin: dict[str, Any]) -> FinetuneConfig:
    """Checks, under the folder's lock, that what was trained here has the same settings and origin.

    Raises UserError, with what differs, where it has not. Where nothing was trained yet, the folder becomes this
    fine-tuning's.
    """
    old, begun_with = read_settings(out)
    if not has_trained(out):
        for folder in (START, TRAINING):
            remove(out / folder)
        write_json(out / SETTINGS, {"settings": to_json(config), "origin": origin})
        return config
    check_same(out, _flat(to_json(old)), _flat(to_json(config)))
    if (out / RESULTS).is_file() and config.model == old.model != "none":
        origin = origin | {name: begun_with[name] for name in ("model", "step")}  # it may have gone on since
    differ = [name for name in origin if begun_with.get(name) != origin[name]]
    if differ:
        raise UserError(f"{out} was begun with another {' and '.join(differ)}: name that one, or choose a new --out")
    return dataclasses.replace(old, runtime=config.runtime)


def check_same(out: Path, before: dict[str, Any], after: dict[str, Any]) -> None:
    """Raises UserError, with what differs, where the settings that `out` was begun with are others."""
    names = before | after
    changed = [
        f"{name}: {before.get(name)} → {after.get(name)}" for name in names if before.get(name) != after.get(name)
    ]
    if changed:
        raise UserError(
            f"{out} was begun with other settings ({'; '.join(changed)}): set them back, or choose a new --out"
        )


def read_settings(out: Path) -> tuple[FinetuneConfig, dict[str, Any]]:
    """The settings of a fine-tuning and what it began with. Raises UserError where they cannot be read."""
    path = out / SETTINGS
    settings, origin = read_json(path, "fine-tune into a new --out", "settings", "origin")
    return from_json(FinetuneConfig, settings, str(path)), origin


def has_trained(out: Path) -> bool:
    """Whether there is anything here that was trained and kept."""
    return (out / CHUNKS).is_dir() or is_training(out)


def is_training(out: Path) -> bool:
    """Whether a chunk has a checkpoint to go on from."""
    return any((out / TRAINING / CHECKPOINTS).glob("[0-9]*"))


def keep_most_at_once(out: Path, most: int) -> int:
    """How many members train at once: as many as at the first start, for other chunks would round otherwise."""
    values = read_json(out / SETTINGS, "fine-tune into a new --out")
    if "members_at_once" not in values:
        write_json(out / SETTINGS, values | {"members_at_once": most})
    return int(values.get("members_at_once", most))


def remove(folder: Path) -> None:
    """Removes a folder so that no part of it can be taken for the whole, however this ends."""
    if folder.is_dir():
        aside = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.part")
        os.rename(folder, aside)
        shutil.rmtree(aside, ignore_errors=True)


def read_progress(path: Path) -> Any:
    """What a fine-tuning wrote on its way. Raises UserError where it is damaged."""
    return read_json(path, "remove its folder, and the same command goes on")


def _flat(values: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in values.items():
        if prefix or name != "runtime":
            inner = _flat(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
            found |= inner
    # Where things lie today is no setting of the result: their checksums are.
    kept = {name: value for name, value in found.items() if name not in READ_BY}
    return {name: value for name, value in kept.items() if name not in PLACES or value == "none"}
