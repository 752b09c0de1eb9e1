"""predict, evaluate."""

import dataclasses
import json
import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, BinaryIO, Literal

import tyro
from rich.console import Console

from electra_jax.commands.opening import load_model, report
from electra_jax.commands.parsing import parse
from electra_jax.commands.texts import TEXTS_AT_ONCE
from electra_jax.errors import UserError
from electra_jax.files import file_aside

if TYPE_CHECKING:
    from rich.table import Table

    from electra_jax.finetune.answers import Prediction
    from electra_jax.finetune.finetuned import FineTuned
    from electra_jax.pretrain.pretrained import Pretrained
    from electra_jax.tasks.examples import Example

# Of a file; what comes through a pipe is answered a few texts at a time.
FILE_AT_ONCE = 1024
STANDARD = Path("-")


@dataclass(frozen=True, kw_only=True)
class PredictArgs:
    model: Path  # a fine-tuned model
    input: Path = STANDARD  # JSONL, CSV, TSV, or a text a line; -: standard input, JSON lines or a text a line
    # Of the input: lines (a text a line), table (CSV by its name, else TSV), jsonl, columns (a word a line), squad.
    layout: Literal["lines", "table", "jsonl", "columns", "squad"] | None = None  # None: as its name says
    output: Path = STANDARD  # an object a line; -: standard output
    skip_bad: bool = False  # count and go on where a line cannot be read


def predict(args: list[str]) -> None:
    """Ask a fine-tuned model: an object a text, in the order of the texts."""
    parsed = parse(PredictArgs, "predict", args, predict.__doc__)
    _check_files(parsed)
    from electra_jax.finetune.finetuned import FineTuned
    from electra_jax.tasks.reading import read_inputs

    model = load_model(parsed.model, None)
    if not isinstance(model, FineTuned):
        raise UserError(f"{parsed.model} {_why_not(model)}: take a model with the head of one task, as finetune writes")
    piped = parsed.input == STANDARD
    source = _standard_input() if piped else parsed.input
    inputs = read_inputs(model.task, source, skip_bad=parsed.skip_bad, report=report, layout=parsed.layout)
    with _opened(parsed.output) as file:
        while some := list(islice(inputs, TEXTS_AT_ONCE if piped else FILE_AT_ONCE)):
            for example, found in zip(some, model.predict_examples(some), strict=True):
                file.write(json.dumps(_record(example, found)).encode() + b"\n")
            file.flush()


def _check_files(args: PredictArgs) -> None:
    """Raises UserError, before anything is computed, where the output could not be written in the end."""
    out = args.output
    if out == STANDARD:
        return
    if out.exists() and not out.is_file():
        raise UserError(f"{out} is no plain file: name another --output, or leave it out for standard output")
    if not out.parent.is_dir():
        raise UserError(f"there is no folder {out.parent} for {out.name}: make it first")
    if args.input != STANDARD and args.input.exists() and out.exists() and out.samefile(args.input):
        raise UserError(f"{out} is the input, too: name another --output")


@contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    if path == STANDARD:
        yield sys.stdout.buffer
    else:
        with file_aside(path) as file:
            yield file


def _standard_input() -> Iterator[str]:
    for line in sys.stdin.buffer:
        yield line.decode("utf-8", "surrogateescape")


def _record(example: "Example", found: "Prediction") -> dict[str, Any]:
    """What is written of a text: its id, where the input has one, and the answer."""
    # A question without an id goes by its place.
    has_id = example.id is not None and example.id != example.where
    return ({"id": example.id} if has_id else {}) | dataclasses.asdict(found)


def _why_not(model: "Pretrained") -> str:
    if model.model.networks.task is None:
        return "was pre-trained only"
    return "has a head that gives several labels or scores at once, or labels of one name"


@dataclass(frozen=True, kw_only=True)
class EvaluateArgs:
    run: Annotated[Path, tyro.conf.arg(aliases=["--model"])]  # a pre-training run's folder, or a fine-tuned model
    data: Path  # for a run, a data set made with its tokenizer; for a fine-tuned model, a labelled file
    rows: int | None = None  # runs only: of the held-out rows, the first so many; None: all
    step: int | None = None  # runs only: a checkpoint; None: the newest
    # Fine-tuned models only: of the labelled file. None: as its name says.
    layout: Literal["table", "jsonl", "columns", "squad"] | None = None
    skip_bad: bool = False  # likewise: count and go on where a line cannot be read
    table: bool = False  # for people


def evaluate(args: list[str]) -> None:
    """Measure a model on held-out rows or a labelled file, as JSON or a table."""
    parsed = parse(EvaluateArgs, "evaluate", args, evaluate.__doc__)
    from electra_jax.finetune.finetuned import FineTuned

    model = load_model(parsed.run, parsed.step)
    if isinstance(model, FineTuned):
        _evaluate_task(parsed, model)
    elif parsed.skip_bad or parsed.layout is not None:
        option = "--skip-bad" if parsed.skip_bad else "--layout"
        raise UserError(f"{option} is for labelled files, and a data set is none: leave it out")
    else:
        _evaluate_run(parsed, model)


def _evaluate_run(args: EvaluateArgs, run: "Pretrained") -> None:
    from electra_jax.text.rows import open_data_set

    data_set = open_data_set(args.data)
    metrics = run.evaluate(data_set, args.rows)
    if args.table:
        from electra_jax.pretrain.show import show_learned

        return show_learned(metrics, data_set.unigram, Console())
    held_out = len(data_set.valid)
    about = {"run": str(args.run), "step": run.step, "data": str(args.data)}
    about["rows"] = held_out if args.rows is None else min(args.rows, held_out)
    return print(json.dumps(about | _finite(metrics)))


def _evaluate_task(args: EvaluateArgs, model: "FineTuned") -> None:
    from electra_jax.tasks.lines import noting
    from electra_jax.tasks.reading import read_examples

    if args.rows is not None:
        raise UserError(f"--rows is for pre-training runs, and {args.run} is a fine-tuned model: leave it out")
    if args.data.is_dir():
        raise UserError(f"{args.data} is a folder: name the labelled file in it that {args.run} is to be measured on")
    notes, tell = noting(report)
    examples = read_examples(model.task, args.data, skip_bad=args.skip_bad, report=tell, layout=args.layout)
    if args.table:
        return Console().print(_table(model, examples))
    about: dict[str, Any] = {"model": str(args.run), "task": model.task.name, "data": str(args.data)}
    about |= {"examples": len(examples), **({"notes": notes} if notes else {})}
    if model.task.answerability:
        about["no_answer_threshold"] = model.no_answer_threshold  # the best on the held-out questions
    return print(json.dumps(about | _finite(model.measure(examples))))


def _table(model: "FineTuned", examples: "list[Example]") -> "Table":
    """Each metric; of tags in chunks, each type's."""
    from electra_jax.finetune.answers import Tagged
    from electra_jax.tasks.examples import TaggedExample
    from electra_jax.tasks.metrics import entity_report, entity_table, metrics_table

    if model.task.kind != "tagging" or model.task.scheme == "none":
        return metrics_table(model.measure(examples), len(examples))
    found = [answer for answer in model.predict_examples(examples) if isinstance(answer, Tagged)]
    tags = [example.tags or () for example in examples if isinstance(example, TaggedExample)]
    return entity_table(entity_report(tags, [[word.tag for word in answer.words] for answer in found]))


def _finite(metrics: dict[str, float]) -> dict[str, float | None]:
    return {name: value if math.isfinite(value) else None for name, value in metrics.items()}
