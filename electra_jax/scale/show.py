"""The FLOPs ledger for people and for programs."""

import math
from typing import Any

from rich.console import Console
from rich.table import Table

from electra_jax.config import PretrainConfig
from electra_jax.scale.flops import (
    PUBLISHED,
    PaperFlops,
    StepFlops,
    paper_step_flops,
    paper_train_flops,
    step_flops,
    together,
    train_flops,
)

NAMES = {
    "look_ups": "embedding look-ups, dense",
    "generator": "generator",
    "mlm_head": "MLM head",
    "discriminator": "discriminator",
    "rtd_head": "RTD head",
    "elementwise": "elementwise, both networks",
    "optimizer": "optimizer's products",
}


def show_flops(config: PretrainConfig, console: Console) -> None:
    """Both ways of counting as tables, the tokens seen, and the run in units of the paper's nearest one."""
    train, paper = config.train, paper_train_flops(config)
    console.print(_table("By the paper's way: forward × 2, dense look-ups", paper_step_flops(config), train.steps))
    console.print(_table("By what is computed: forward × 3, look-ups free", step_flops(config), train.steps))
    tokens = f"{_short(_tokens(config))} tokens seen, padding included"
    _say(f"{train.steps:,} steps of {train.batch_size} × {config.data.length}: {tokens}.", console)
    nearest = min(PUBLISHED, key=lambda name: abs(math.log(paper / PUBLISHED[name])))
    units = f"{paper / PUBLISHED[nearest]:.3g} × {nearest} ({_short(PUBLISHED[nearest])})"
    _say(f"The paper's way: {units}. Computed: {train_flops(config) / paper:.3g} × that count.", console)


def flops_json(config: PretrainConfig) -> dict[str, Any]:
    """Both ways of counting, FLOPs of a step by line and of the run; and the run in units of each of the paper's."""
    ways: dict[str, PaperFlops | StepFlops] = {"paper": paper_step_flops(config), "computed": step_flops(config)}
    about = {
        "name": config.name,
        "objective": config.objective.name,
        "steps": config.train.steps,
        "batch_size": config.train.batch_size,
        "length": config.data.length,
        "tokens": _tokens(config),
    }
    in_units = {name: paper_train_flops(config) / flops for name, flops in PUBLISHED.items()}
    return about | {way: _way(lines, config.train.steps) for way, lines in ways.items()} | {"paper_runs": in_units}


def _way(lines: PaperFlops | StepFlops, steps: int) -> dict[str, Any]:
    step = {name: line._asdict() | {"train": line.train} for name, line in lines._asdict().items()}
    train = together(lines).train
    return {"step": step, "step_train": train, "run_train": float(steps * train)}


def _table(title: str, lines: PaperFlops | StepFlops, steps: int) -> Table:
    """One way of counting; lines that are 0 in this run are left out."""
    total = together(lines)
    table = Table("", title=title, show_footer=True)
    table.columns[0].footer = "together"
    for name, flops in (("forward/step", total.forward), ("train/step", total.train), ("run", steps * total.train)):
        table.add_column(name, _short(flops), justify="right")
    table.add_column("share", "100.0%", justify="right")
    for name, line in lines._asdict().items():
        if line.train:
            counts = (line.forward, line.train, steps * line.train)
            table.add_row(NAMES[name], *map(_short, counts), f"{line.train / total.train:.1%}")
    return table


def _tokens(config: PretrainConfig) -> int:
    return config.train.steps * config.train.batch_size * config.data.length


def _short(count: int | float) -> str:
    return f"{count:.2e}".replace("e+", "e") if count else "–"


def _say(sentence: str, console: Console) -> None:
    console.print(sentence, highlight=False, soft_wrap=True)
