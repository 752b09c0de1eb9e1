"""finetune, glue."""

from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro
from rich.console import Console

from electra_jax.commands.opening import report
from electra_jax.commands.own_data import OwnData, find_task_and_data
from electra_jax.commands.parsing import parse
from electra_jax.errors import UserError
from electra_jax.finetune.config import FinetuneConfig, FinetuneRuntime

if TYPE_CHECKING:
    from electra_jax.config import ModelConfig
    from electra_jax.finetune.glue import GlueConfig, Place
    from electra_jax.finetune.results import MemberResult
    from electra_jax.pretrain.pretrained import Pretrained
    from electra_jax.tasks.data import Data
    from electra_jax.tasks.task import Task

FIXED_EPOCHS = 3.0  # of every task under the fixed protocol


@dataclass(frozen=True, kw_only=True)
class RecipeArgs:
    """The recipe; what is None follows the paper by the model's size, or the task."""

    model: str  # a pre-training run, an imported model, a Hugging Face folder, an earlier fine-tuning; or none
    like: str | None = None  # with --model none: the folder whose sizes and tokenizer it is to have
    seeds: int = 5  # how many
    first_seed: int = 0  # the others follow it
    learning_rates: str | None = None  # one or several, as 1e-4,3e-4; None: the model's size says
    epochs: float | None = None  # None: the task's
    length: int | None = None  # tokens of the longest row; None: the task's
    batch_size: int = 32
    batches: Literal["by_length", "random"] = "by_length"  # by_length: of similar rows, the faster one
    head: Literal["paper", "huggingface"] = "paper"  # huggingface: Transformers' own, for export
    layer_decay: float | None = None  # each layer's rate by the one above; None: the size says, --model none: 1
    layer_decay_form: Literal["paper", "google"] = "paper"  # google: as the published code counts layers
    warmup_share: float = 0.1  # of the steps
    weight_decay: float = 0.0
    dropout: float = 0.1  # in the encoder and before the head
    clip_norm: float = 1.0
    bias_correction: bool = False
    evaluations: int = 6  # spread over the training, the last one at its end
    step: int | None = None  # of a pre-training run, a checkpoint; None: the newest
    skip_bad: bool = False  # count and go on where a line cannot be read
    runtime: FinetuneRuntime = field(default_factory=FinetuneRuntime)


@dataclass(frozen=True, kw_only=True)
class TaskArgs:
    task: str | None = None  # a known task, or the file (.json) that describes one
    data: str | None = None  # the folder of its files; or tfds, or tfds: and the folder of prepared data sets
    out: Path  # the fine-tuning's folder; the same command again resumes it
    own_data: tyro.conf.OmitArgPrefixes[OwnData] = field(default_factory=OwnData)


@dataclass(frozen=True, kw_only=True)
class FinetuneArgs(RecipeArgs, TaskArgs):  # fields of the last one come first
    """--model with --task and --data, or with --kind, --train and --dev."""


def finetune(args: list[str]) -> None:
    """Fine-tune a model: all seeds and learning rates at once."""
    parsed = parse(FinetuneArgs, "finetune", args, finetune.__doc__)
    task, folder = find_task_and_data(parsed.task, parsed.data, parsed.own_data)
    from electra_jax.finetune.results import results_table
    from electra_jax.finetune.start import open_again
    from electra_jax.tasks.data import read_data
    from electra_jax.training.host import tune_for_cpu

    tune_for_cpu()
    data = read_data(task, folder, skip_bad=parsed.skip_bad, report=report)
    source = open_again(parsed.out, parsed.model, parsed.like, report, parsed.step)
    config = config_of(parsed, data.task, source.model.networks.main)
    console = Console()
    console.print(results_table(config, run_task(config, data, source, parsed.out, console)))


def run_task(
    config: FinetuneConfig, data: "Data", source: "Pretrained", out: Path, console: Console
) -> "list[MemberResult]":
    """Fine-tunes on one task and draws what came of it."""
    from electra_jax.finetune.curves import draw_curves
    from electra_jax.finetune.results import main_metric
    from electra_jax.finetune.run import finetune as run

    results = run(config, data, source, out, console)
    try:
        draw_curves(out / "curves.png", results, main_metric(config))
    except ImportError as error:
        report(f"no curves.png is drawn, because {error.name} is not installed")
    return results


@dataclass(frozen=True, kw_only=True)
class GlueArgs(RecipeArgs):
    data: str  # the folder of GLUE's folders (CoLA, SST-2, … or cola, sst2, …); or tfds, or tfds: and a folder
    out: Path  # a fine-tuning's folder for each task, and glue.json and glue.md; the same command again resumes it
    tasks: str | None = None  # as cola,rte; None: all that there is data for, except WNLI
    # paper: each task has its own epochs and, of the learning rates given, the one with the best median.
    # fixed: one learning rate and the same epochs for all, 3 unless given.
    protocol: Literal["paper", "fixed"] = "paper"
    from_mnli: bool = False  # MRPC, STS-B and RTE begin with the model that was fine-tuned on MNLI


def glue(args: list[str]) -> None:
    """Fine-tune a model on every GLUE task there is data for: one table."""
    parsed = parse(GlueArgs, "glue", args, glue.__doc__)
    if parsed.protocol == "fixed":
        if len(_rates(parsed.learning_rates)) != 1:
            raise UserError("--protocol fixed has one learning rate for all tasks: name it, as --learning-rates 1e-4")
        parsed = replace(parsed, epochs=FIXED_EPOCHS if parsed.epochs is None else parsed.epochs)
    from electra_jax.finetune.folder import START
    from electra_jax.finetune.glue import begun_with, choose_tasks, find_glue, run_glue
    from electra_jax.finetune.glue_table import show_glue
    from electra_jax.finetune.start import NONE, fingerprint, keep_start, open_source
    from electra_jax.tasks.data import read_data
    from electra_jax.training.host import tune_for_cpu

    places, absent = find_glue(parsed.data, choose_tasks(parsed.tasks), must=parsed.tasks is not None)
    if absent:
        report(f"{parsed.data} has no {', '.join(absent)}: the table will be without")
    tune_for_cpu()
    console = Console()
    source = begun_with(parsed.out, parsed.model, parsed.step)
    source = source or open_source(parsed.model, parsed.like, report, parsed.step)
    weights = fingerprint(source.model.networks, source.tokenizer, None if parsed.model == NONE else source.params)

    def train(place: "Place", out: Path, before: Path | None) -> "list[MemberResult]":
        data = read_data(place.task, place.data, skip_bad=parsed.skip_bad, report=report)
        config = config_of(parsed, data.task, source.model.networks.main)
        if parsed.model != NONE:
            keep_start(parsed.out / START, source)
        if before is None:
            return run_task(config, data, source, out, console)
        config = replace(config, model=str(before), like=None)
        return run_task(config, data, open_source(str(before), None, report), out, console)

    config = glue_config(parsed, config_of(parsed, places[0].task, source.model.networks.main))
    show_glue(run_glue(config, parsed.model, weights, places, train, parsed.out, console), console)


def glue_config(args: GlueArgs, recipe: FinetuneConfig) -> "GlueConfig":
    """What all tasks have in common; `recipe` is one of them."""
    from electra_jax.finetune.glue import GlueConfig

    common = {f.name: getattr(recipe, f.name) for f in fields(GlueConfig) if hasattr(recipe, f.name)}
    own = {"protocol": args.protocol, "from_mnli": args.from_mnli, "epochs": args.epochs, "length": args.length}
    return GlueConfig(**common | own)


def config_of(args: RecipeArgs, task: "Task", sizes: "ModelConfig") -> FinetuneConfig:
    """The settings that the arguments, the task and the size of the model make together."""
    from electra_jax.finetune.config import recipe_for

    recipe = recipe_for(sizes)
    usual_decay = 1.0 if args.model == "none" else recipe.layer_decay  # random weights have nothing to preserve
    if args.seeds < 1:
        raise UserError(f"--seeds must be at least 1, not {args.seeds}")
    return FinetuneConfig(
        task=task,
        model=args.model,
        like=args.like,
        head=args.head,
        seeds=tuple(range(args.first_seed, args.first_seed + args.seeds)),
        learning_rates=_rates(args.learning_rates) or (recipe.learning_rate,),
        epochs=task.epochs if args.epochs is None else args.epochs,
        length=task.length if args.length is None else args.length,
        batch_size=args.batch_size,
        batches=args.batches,
        layer_decay=usual_decay if args.layer_decay is None else args.layer_decay,
        layer_decay_form=args.layer_decay_form,
        warmup_share=args.warmup_share,
        weight_decay=args.weight_decay,
        dropout=args.dropout,
        clip_norm=args.clip_norm,
        bias_correction=args.bias_correction,
        evaluations=args.evaluations,
        runtime=args.runtime,
    )


def _rates(given: str | None) -> tuple[float, ...]:
    try:
        return tuple(float(rate) for rate in given.split(",")) if given is not None else ()
    except ValueError:
        raise UserError(f"--learning-rates is {given!r}: give numbers with commas between, as 1e-4,3e-4") from None
