"""A plan for people and for programs."""

from typing import Any

from rich.console import Console
from rich.table import Table

from electra_jax.config import PretrainConfig
from electra_jax.model.flops import train_step_flops
from electra_jax.scale.fitting import options, show_bytes
from electra_jax.scale.flops import step_flops, together
from electra_jax.scale.plan import Compiled, Memory
from electra_jax.scale.target import Target

UTILISATIONS = (0.2, 0.4, 0.6)
# What a run holds beside its step, measured: programs that draw the state and evaluate, logs, the drawing of curves.
BESIDE = 170 * 2**20
DAY = 24 * 60 * 60
PARTS = {
    "state": "state: parameters and moments",
    "batch": "batch",
    "temporaries": "activations, gradients, temporaries",
    "program": "the program itself",
}


def show_plan(tried: list[Compiled], target: Target, memory: int | None, console: Console) -> None:
    """Memory, collectives, FLOPs and days of the last one tried; what to type where it isn't what was asked for."""
    last, config = tried[-1], tried[-1].config
    fits = last.fits(memory)
    changed = options(tried[0].config.runtime, config.runtime) if fits else []
    if not fits:
        _say(_no_way(len(tried)), console)
    elif changed:
        _say(f"As it is, the step does not fit. It does with {' '.join(changed)}", console)
    if last.memory is not None:
        console.print(_memory_table(last.memory, memory))
        process = process_bytes(tried)
        if process is not None:
            _say(
                f"The process as a whole: about {show_bytes(process)}, with Python, its libraries, the compiler and a "
                "copy of the state while it saves.",
                console,
            )
    if last.collectives:
        console.print(_collectives_table(last))
    rows = f"{config.train.batch_size:,} × {config.data.length} = {_tokens(config):,} tokens a step"
    micro = f" in {config.runtime.micro_batches} micro-batches" if config.runtime.micro_batches > 1 else ""
    _say(f"{rows}{micro}, {config.runtime.dtype}; {train_step_flops(config):.3g} model FLOPs a step.", console)
    if target.peak is not None:
        days = ", ".join(f"{_show_days(days)} at {share:.0%} MFU" for share, days in _days(config, target).items())
        peak = f"peak {target.peak / 1e12:.3g} TFLOP/s a device"
        _say(f"{config.train.steps:,} steps take {days} ({peak}).", console)


def describe(target: Target) -> str:
    """What the plan is for, in a line."""
    count, hosts = len(target.devices), target.hosts
    return f"{target.name}: {count} × {target.kind}, {hosts} host{'s' if hosts > 1 else ''}"


def process_bytes(tried: list[Compiled]) -> int | None:
    """What a whole pre-training process on a CPU of one device will hold at most, or None for other devices.

    This process, which has compiled the step as that one will; the step; the copy of the state that a checkpoint is
    written from; and the rest.
    """
    before, last = tried[0].resident, tried[-1].memory
    return None if before is None or last is None else before + last.total + last.state + BESIDE


def plan_json(tried: list[Compiled], target: Target, memory: int | None) -> dict[str, Any]:
    """The last one tried, with what to type for it, and what the others came to; bytes are of one device."""
    asked, last = tried[0].config, tried[-1]
    config = last.config
    return {
        "name": config.name,
        "target": target.name,
        "devices": len(target.devices),
        "kind": target.kind,
        "hosts": target.hosts,
        "memory": memory,
        "fits": last.fits(memory),
        "options": options(asked.runtime, config.runtime),
        "bytes": None if last.memory is None else last.memory._asdict() | {"total": last.memory.total},
        "process": process_bytes(tried),
        "collectives": {kind: traffic._asdict() for kind, traffic in last.collectives.items()},
        "tokens": _tokens(config),
        "flops": {
            "model": train_step_flops(config),
            "computed": together(step_flops(config)).train,
            "compiler_per_device": last.flops,
        },
        "peak_per_device": target.peak,
        "days": {f"{share:.2f}": days for share, days in _days(config, target).items()},
        "tried": [
            {"options": options(asked.runtime, one.config.runtime), "needed": one.needed, "seconds": one.seconds}
            for one in tried
        ],
    }


def _memory_table(held: Memory, memory: int | None) -> Table:
    table = Table("on each device", title="Memory", show_footer=True)
    table.columns[0].footer = "together" if memory is None else f"together, of {show_bytes(memory)}"
    table.add_column("bytes", show_bytes(held.total), justify="right")
    if memory is not None:
        table.add_column("of all", f"{held.total / memory:.1%}", justify="right")
    for name, size in held._asdict().items():
        if size:
            table.add_row(PARTS[name], show_bytes(size), *([] if memory is None else [f"{size / memory:.1%}"]))
    return table


def _collectives_table(last: Compiled) -> Table:
    table = Table("in one step", title="Collectives")
    table.add_column("number", justify="right")
    table.add_column("of arrays of, together", justify="right")
    for kind, traffic in last.collectives.items():
        table.add_row(kind, f"{traffic.number:,}", show_bytes(traffic.bytes))
    return table


def _days(config: PretrainConfig, target: Target) -> dict[float, float]:
    """Of the whole run at shares of the peak, by model FLOPs; none where the peak is not known."""
    if target.peak is None:
        return {}
    seconds = config.train.steps * train_step_flops(config) / (target.peak * len(target.devices))
    return {share: seconds / share / DAY for share in UTILISATIONS}


def _show_days(days: float) -> str:
    unit, name = (1, "days") if days >= 2 else (24, "hours") if days >= 1 / 24 else (24 * 60, "minutes")
    return f"{days * unit:.3g} {name}"


def _no_way(tried: int) -> str:
    if tried == 1:
        return "It does not fit, nor would it in any other way that plan knows: take more devices or larger ones."
    return "None of them fits: take more devices or larger ones, or lower train.batch-size."


def _tokens(config: PretrainConfig) -> int:
    return config.train.batch_size * config.data.length


def _say(sentence: str, console: Console) -> None:
    console.print(sentence, highlight=False, soft_wrap=True)
