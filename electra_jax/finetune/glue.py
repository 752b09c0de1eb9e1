"""GLUE as a whole: which of its tasks there is data for, one fine-tuning after another, and the folder of it all.

glue.json    the settings, and the figures of the tasks that have ended
glue.md      the table
start/       the model that all begin with, which may be gone where it came from
cola/, …     a fine-tuning each
"""

import dataclasses
import json
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

from rich.console import Console

from electra_jax.errors import UserError
from electra_jax.files import new_folder, read_json, write_file, write_json
from electra_jax.finetune.folder import RESULTS, START, check_same
from electra_jax.finetune.glue_table import AVERAGED, COLUMNS, column_of, glue_json, markdown
from electra_jax.finetune.results import MemberResult
from electra_jax.finetune.start import read_start
from electra_jax.pretrain.pretrained import Pretrained
from electra_jax.settings import Settings, to_json
from electra_jax.tasks.data import is_tfds, tfds_folder
from electra_jax.tasks.known import TASKS, find_files, find_task
from electra_jax.tasks.lines import listed
from electra_jax.tasks.task import Task
from electra_jax.tasks.tfds import check_prepared
from electra_jax.training.workdir import own

GLUE, TABLE, MNLI = "glue.json", "glue.md", "mnli"
# Small tasks that gain from a model which has learned MNLI before.
AFTER_MNLI = ("mrpc", "stsb", "rte")


@dataclass(frozen=True, kw_only=True)
class GlueConfig(Settings):
    """What all of GLUE's fine-tunings have in common; results of others do not go into one table with them."""

    # paper: each task has its own epochs and the best of the learning rates. fixed: all have the same.
    protocol: Literal["paper", "fixed"]
    from_mnli: bool  # the small tasks begin with the model that was fine-tuned on MNLI
    seeds: tuple[int, ...]
    learning_rates: tuple[float, ...]
    epochs: float | None  # None: each task's own
    length: int | None
    head: str
    batch_size: int
    batches: str
    layer_decay: float
    layer_decay_form: str
    warmup_share: float
    weight_decay: float
    clip_norm: float
    bias_correction: bool
    dropout: float
    evaluations: int

    def check(self) -> None:
        if self.protocol == "fixed":
            self.require(
                len(self.learning_rates) == 1 and self.epochs is not None, "fixed takes one learning rate and epochs"
            )


class Place(NamedTuple):
    """A task and where its data is."""

    task: Task
    data: str  # a folder, or what names TFDS


# Fine-tunes on a task's data into a folder; from the model of another folder, where one is named.
Train = Callable[[Place, Path, Path | None], list[MemberResult]]


def choose_tasks(given: str | None) -> list[str]:
    """The tasks that `--tasks` names, in the table's order; all but WNLI, which the paper leaves out, for None."""
    if given is None:
        return list(AVERAGED)
    chosen = {find_task(name.strip()).name for name in given.split(",") if name.strip()}
    strangers = sorted(chosen - COLUMNS.keys())
    if strangers or not chosen:
        what = f"names {listed(strangers)}" if strangers else "names nothing"
        raise UserError(f"--tasks {what}: choose among GLUE's {', '.join(COLUMNS)}")
    return [name for name in COLUMNS if name in chosen]


def find_glue(data: str, chosen: Sequence[str], must: bool) -> tuple[list[Place], list[str]]:
    """The chosen tasks that there is data for, and the names of those there is none for.

    Raises UserError where there is none at all, or where one is missing that there `must` be; also where a task's
    folder lacks one of its files.
    """
    if is_tfds(data):
        found, absent = _find_prepared(data, chosen, must)
    else:
        found, absent = _find_folders(Path(data).expanduser(), chosen, must)
    # The metric of the table is the one that chooses the learning rate and the model that is kept.
    places = [Place(_measured_as(TASKS[name], COLUMNS[name].metric), place) for name, place in found.items()]
    return places, [COLUMNS[name].folder for name in absent]


def _measured_as(task: Task, metric: str) -> Task:
    return dataclasses.replace(task, metrics=(metric, *(name for name in task.metrics if name != metric)))


def _find_folders(data: Path, chosen: Sequence[str], must: bool) -> tuple[dict[str, str], list[str]]:
    if not data.is_dir():
        raise UserError(f"there is no folder {data}: name the one that holds GLUE's folders, CoLA, SST-2 and so on")
    held: dict[str, list[Path]] = {}
    for path in sorted(data.iterdir()):
        if path.is_dir():
            held.setdefault(re.sub("[^a-z0-9]", "", path.name.lower()), []).append(path)
    absent = [name for name in chosen if name not in held]
    if len(absent) == len(chosen) or (absent and must):
        names = listed(sorted(path.name for path in data.iterdir() if not path.name.startswith(".")))
        wanted = " or ".join(COLUMNS[name].folder for name in absent)
        raise UserError(f"{data} has no folder {wanted}, but {names}: name the folder that holds GLUE's folders")
    for name in chosen:
        if len(held.get(name, [])) > 1:
            both = listed(path.name for path in held[name])
            raise UserError(f"{data} has {both}, which are one task: rename the one that is not meant")
    found = {name: held[name][0] for name in chosen if name in held}
    for name, folder in found.items():
        find_files(TASKS[name], folder)
    return {name: str(folder) for name, folder in found.items()}, absent


def _find_prepared(data: str, chosen: Sequence[str], must: bool) -> tuple[dict[str, str], list[str]]:
    folder = tfds_folder(data)
    errors: dict[str, UserError] = {}
    for name in chosen:
        try:
            check_prepared(TASKS[name], folder)
        except UserError as error:
            errors[name] = error
    if errors and (must or len(errors) == len(chosen)):
        raise next(iter(errors.values()))
    return {name: data for name in chosen if name not in errors}, list(errors)


def run_glue(
    config: GlueConfig, model: str, weights: str, places: Sequence[Place], train: Train, out: Path, console: Console
) -> dict[str, Any]:
    """Fine-tunes on every task that has not ended yet; returns what glue.json holds.

    `weights` is the checksum of what all begin with. Tasks that ended here before stay in the table.
    Raises UserError for an `out` of another protocol, other settings or weights, before anything is trained; what
    `train` raises leaves the table of the tasks before.
    """
    names = [place.task.name for place in places]
    if config.from_mnli and MNLI not in names and not (out / MNLI / RESULTS).is_file():
        raise UserError("--from-mnli needs MNLI among the tasks: add mnli to --tasks, or its folder to the data")
    if not (out / GLUE).is_file():
        with new_folder(out) as folder:
            write_json(folder / GLUE, glue_json(to_json(config), model, weights, {}))
    with own(out):
        columns = _check(out, config, weights)
        for number, (task, data) in enumerate(sorted(places, key=lambda place: _turn(place, config.from_mnli)), 1):
            console.print(f"{COLUMNS[task.name].folder}, task {number} of {len(places)}", style="bold")
            before = out / MNLI if config.from_mnli and task.name in AFTER_MNLI else None
            results = train(Place(task, data), out / task.name, before)
            epochs = config.epochs or task.epochs
            begins_with = "mnli" if before else "the pre-trained model"
            columns[task.name] = column_of(task, results, epochs, begins_with, _notes_of(out / task.name))
            found = glue_json(to_json(config), model, weights, columns)
            write_json(out / GLUE, found)
            write_file(out / TABLE, markdown(found))
    return found


def _notes_of(folder: Path) -> list[str]:
    """What a fine-tuning's results must not be read without."""
    path = folder / RESULTS
    return list(read_json(path, "remove its folder", "notes")[0]) if path.is_file() else []


def _turn(place: Place, mnli_first: bool) -> tuple[bool, int]:
    return mnli_first and place.task.name != MNLI, list(COLUMNS).index(place.task.name)


def begun_with(out: Path, model: str, step: int | None) -> Pretrained | None:
    """What this folder's tasks began with, though its run has gone on since; None where they began with another."""
    if not (out / GLUE).is_file() or read_json(out / GLUE, "choose a new --out", "model") != (model,):
        return None
    return read_start(out / START, step)


def _check(out: Path, config: GlueConfig, weights: str) -> dict[str, Any]:
    """Checks that the folder is this GLUE's; returns the figures of the tasks that have ended."""
    before, began, columns = read_json(out / GLUE, "choose a new --out", "settings", "weights", "tasks")
    settings = json.loads(json.dumps(to_json(config)))
    if before.get("protocol") != config.protocol:
        raise UserError(
            f"{out} holds results of the protocol {before.get('protocol')!r}, which do not go into one table with "
            f"those of {config.protocol!r}: choose a new --out"
        )
    check_same(out, before, settings)
    if began != weights:
        raise UserError(f"{out} was begun with another model: name that one, or choose a new --out")
    return columns
