"""GLUE's results as one table: for programs, as Markdown and in a terminal."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from electra_jax.finetune.results import MemberResult, best_rate, figure
from electra_jax.tasks.task import Task


class Column(NamedTuple):
    """How a task stands in the table."""

    title: str  # in the paper's tables
    folder: str  # of its official files
    metric: str  # paper, Section 3.1


# In the order of the paper's tables. WNLI is no part of its average.
COLUMNS: dict[str, Column] = {
    "cola": Column("CoLA", "CoLA", "matthews"),
    "sst2": Column("SST", "SST-2", "accuracy"),
    "mrpc": Column("MRPC", "MRPC", "accuracy"),
    "stsb": Column("STS", "STS-B", "spearman"),
    "qqp": Column("QQP", "QQP", "accuracy"),
    "mnli": Column("MNLI", "MNLI", "accuracy"),
    "qnli": Column("QNLI", "QNLI", "accuracy"),
    "rte": Column("RTE", "RTE", "accuracy"),
    "wnli": Column("WNLI", "WNLI", "accuracy"),
}
AVERAGED = tuple(name for name in COLUMNS if name != "wnli")


def column_of(
    task: Task, results: Sequence[MemberResult], epochs: float, begins_with: str, notes: Sequence[str] = ()
) -> dict[str, Any]:
    """A task's figures: those of the learning rate whose median over the seeds is highest."""
    best = best_rate(results, task.metrics[0])
    figures = best.summary._asdict()
    return {
        "title": COLUMNS[task.name].title,
        "metric": best.metric,
        **{name: value if math.isfinite(value) else None for name, value in figures.items()},
        "learning_rate": best.learning_rate,
        "epochs": epochs,
        "begins_with": begins_with,
        "notes": list(notes),
    }


def glue_json(settings: dict[str, Any], model: str, weights: str, tasks: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What glue.json holds: the settings, each task's figures in the table's order, and their averages."""
    tasks = {name: tasks[name] for name in COLUMNS if name in tasks}
    counted = [name for name in AVERAGED if name in tasks and tasks[name]["median"] is not None]
    averages = {
        f"average_of_{name}s": float(np.mean([tasks[task][name] for task in counted])) if counted else None
        for name in ("median", "mean")
    }
    return {
        "protocol": settings["protocol"],
        "model": model,
        "weights": weights,
        "settings": settings,
        "tasks": tasks,
        **averages,
        "averaged_over": [COLUMNS[name].title for name in counted],
        "not_averaged_over": [COLUMNS[name].title for name in AVERAGED if name not in counted],
    }


def glue_title(found: dict[str, Any]) -> str:
    """The table's title, with the protocol in it."""
    return f"GLUE, protocol {found['protocol']}, from {found['model']}"


def notes(found: dict[str, Any]) -> list[str]:
    """What a reader of the table must know, a sentence each."""
    settings = found["settings"]
    seeds, rates = len(settings["seeds"]), settings["learning_rates"]
    named = ", ".join(f"{rate:g}" for rate in rates)
    rate = f"learning rate {named}" if len(rates) == 1 else f"for each task the best median of learning rates {named}"
    epochs = "each task's own epochs" if settings["epochs"] is None else f"epochs: {settings['epochs']:g}"
    lines = [
        f"Percent on the held-out files, the median of {seeds} seed{'s' if seeds > 1 else ''}: Matthews' correlation "
        "for CoLA, Spearman's for STS, else accuracy (MNLI: matched).",
        f"Protocol {found['protocol']}: {rate}; {epochs}.",
    ]
    if any(task["diverged"] for task in found["tasks"].values()):
        lines.append("Seeds that diverged are in no figure, and a rate at which half of them did so is not chosen.")
    lines += [f"{task['title']}: {note}." for task in found["tasks"].values() for note in task.get("notes", ())]
    if settings["from_mnli"]:
        began = [task["title"] for task in found["tasks"].values() if task["begins_with"] == "mnli"]
        lines += [f"{', '.join(began)} began with the model fine-tuned on MNLI."] if began else []
    if "wnli" in found["tasks"]:
        lines.append("WNLI is left out of the average, as in the paper.")
    absent = found["not_averaged_over"]
    if absent:
        count = f"{len(found['averaged_over'])} of GLUE's {len(AVERAGED)} tasks"
        lines.append(f"The average is over {count}, without {', '.join(absent)}: it is not the paper's GLUE average.")
    return lines


def markdown(found: dict[str, Any]) -> str:
    """The table as a Markdown file."""
    head, rows = _cells(found)
    lines = [head, [":--", *(["--:"] * (len(head) - 1))], *rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"# {glue_title(found)}\n\n{table}\n\n" + "\n".join(f"- {note}" for note in notes(found)) + "\n"


def show_glue(found: dict[str, Any], console: Console) -> None:
    """Prints the table, which fits 80 columns, between its title and its notes."""
    head, rows = _cells(found)
    gap = 1 if len(head) <= len(AVERAGED) + 2 else 0  # with WNLI it is narrow
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True, padding=(0, gap))
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for number, row in enumerate(rows):
        table.add_row(*row, style="" if number else "bold")
    console.print(f"\n{glue_title(found)}", style="bold", highlight=False, markup=False, soft_wrap=True)
    console.print(table)
    for note in notes(found):
        console.print(note, highlight=False, markup=False)


def _cells(found: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """The table's head and rows: the medians first."""
    tasks = found["tasks"].values()
    shown: list[tuple[str, list[str], str]] = [
        ("median", [_percent(task["median"]) for task in tasks], _percent(found["average_of_medians"])),
        ("mean", [_percent(task["mean"]) for task in tasks], _percent(found["average_of_means"])),
        ("25 %", [_percent(task["q1"]) for task in tasks], ""),
        ("75 %", [_percent(task["q3"]) for task in tasks], ""),
        ("rate", [f"{task['learning_rate']:g}" for task in tasks], ""),
        ("epochs", [f"{task['epochs']:g}" for task in tasks], ""),
    ]
    if any(task["diverged"] for task in tasks):
        shown.append(("diverged", [str(task["diverged"]) for task in tasks], ""))
    return ["", *(task["title"] for task in tasks), "Avg."], [[name, *cells, last] for name, cells, last in shown]


def _percent(value: float | None) -> str:
    return figure("", math.nan if value is None else value)
