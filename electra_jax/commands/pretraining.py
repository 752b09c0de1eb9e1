"""prepare, pretrain, flops, plan."""

import argparse
import dataclasses
import functools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro
from rich.console import Console

from electra_jax.commands.opening import report
from electra_jax.commands.parsing import parse
from electra_jax.config import PrepareConfig, PretrainConfig
from electra_jax.errors import UserError
from electra_jax.presets import load_preset, with_objective


def prepare(args: list[str]) -> None:
    """Turn text into a data set of rows."""
    from electra_jax.text.prepare import prepare as run
    from electra_jax.text.prepare import report_table

    prepared = run(parse(PrepareConfig, "prepare", args, prepare.__doc__), progress=True)
    Console().print(report_table(prepared))


@dataclass(frozen=True, kw_only=True)
class PretrainArgs:
    data: Path  # a folder that `prepare` wrote
    workdir: Path  # the run's folder; the same command again resumes it
    settings: Annotated[PretrainConfig, tyro.conf.arg(name="")]


def pretrain(args: list[str]) -> None:
    """Pre-train generator and discriminator, or resume."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--init-from", type=Path)
    early, args = first.parse_known_args(args)
    config, rest, description = _preset("pretrain", args, pretrain.__doc__)
    description += " --init-from MODEL begins with the weights of a run, an imported model or a Hugging Face folder."
    if early.init_from is not None:
        config = dataclasses.replace(
            config, train=dataclasses.replace(config.train, init_from=str(early.init_from.resolve()))
        )
    known = {"data": tyro.MISSING, "workdir": tyro.MISSING, "settings": config}
    parsed = parse(PretrainArgs, "pretrain", rest, description, known)

    from electra_jax.pretrain.curves import draw_curves
    from electra_jax.pretrain.run import pretrain as run
    from electra_jax.training.host import tune_for_cpu
    from electra_jax.training.processes import is_first, joined

    tune_for_cpu()
    with joined(report=report):
        run(parsed.settings, parsed.data, parsed.workdir, Console(quiet=not is_first()))
        if not is_first():
            return
        try:
            draw_curves(parsed.workdir)
        except ImportError as error:
            report(f"no curves.png is drawn, because {error.name} is not installed")


@dataclass(frozen=True, kw_only=True)
class FlopsArgs:
    settings: Annotated[PretrainConfig, tyro.conf.arg(name="")]
    json: bool = False  # one object, for programs


def flops(args: list[str]) -> None:
    """Count a run's FLOPs, by the paper's way and as computed."""
    config, rest, description = _preset("flops", args, flops.__doc__)
    parsed = parse(FlopsArgs, "flops", rest, description, {"settings": config})
    from electra_jax.scale.show import flops_json, show_flops

    if parsed.json:
        print(json.dumps(flops_json(parsed.settings)))
    else:
        show_flops(parsed.settings, Console())


@dataclass(frozen=True, kw_only=True)
class PlanArgs:
    settings: Annotated[PretrainConfig, tyro.conf.arg(name="")]
    topology: str | None = None  # a TPU slice, as v5e:16x16, v6e:4x4 or v5p:8x8x8; without: the devices here
    memory_gib: float | None = None  # of one device; without: what is known of its kind
    json: bool = False  # one object, for programs


def plan(args: list[str]) -> None:
    """Compile the train step for devices that need not be there: memory, collectives, FLOPs, days."""
    config, rest, description = _preset("plan", args, plan.__doc__)
    parsed = parse(PlanArgs, "plan", rest, description, {"settings": config})
    if parsed.memory_gib is not None and not parsed.memory_gib > 0:
        raise UserError(f"--memory-gib must be above 0, not {parsed.memory_gib}")
    import jax

    from electra_jax.scale import fitting, show_plan, target
    from electra_jax.training.host import tune_for_cpu

    dtype = parsed.settings.runtime.dtype
    if parsed.topology is None:
        tune_for_cpu()  # as the run will be
        devices = target.devices_here(dtype)
    else:
        jax.config.update("jax_platforms", "cpu")  # else jax would look for the chips
        devices = target.devices_of_slice(parsed.topology, dtype)
    memory = devices.memory if parsed.memory_gib is None else int(parsed.memory_gib * 2**30)
    progress = Console(stderr=True)
    say = functools.partial(progress.print, highlight=False, soft_wrap=True)
    say(show_plan.describe(devices))
    tried = fitting.plan(parsed.settings, devices, memory, say)
    if parsed.json:
        print(json.dumps(show_plan.plan_json(tried, devices, memory)))
    else:
        show_plan.show_plan(tried, devices, memory, Console())


def _preset(command: str, args: list[str], what: str | None) -> tuple[PretrainConfig, list[str], str]:
    """The preset that --config and --objective name, the arguments left to override it, and the help's first lines.

    Raises UserError where there is no --config, or no such preset.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--config", type=Path)
    first.add_argument("--objective", choices=("electra", "mlm"))
    known, rest = first.parse_known_args(args)
    if known.config is None:
        raise UserError(
            f"{command} needs --config, a preset; with --config configs/small.py --help it lists the settings"
        )
    config = load_preset(known.config)
    if known.objective is not None:
        config = with_objective(config, known.objective)
    return config, rest, f"{what} Defaults: {known.config}; --objective electra|mlm picks the preset's twin."
