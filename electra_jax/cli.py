"""`electra-jax COMMAND`: parse, call one function, print."""

import argparse
import dataclasses
import errno
import io
import json
import math
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import tyro
from rich.console import Console

from electra_jax.config import PrepareConfig, PretrainConfig, load_preset, with_objective
from electra_jax.errors import UserError

if TYPE_CHECKING:
    from electra_jax.pretrain.pretrained import Pretrained

TEXTS_AT_ONCE = 64

T = TypeVar("T")


def prepare(args: list[str]) -> None:
    """Turn text into a data set of rows."""
    from electra_jax.text.prepare import prepare as run
    from electra_jax.text.prepare import report_table

    report = run(_parse(PrepareConfig, "prepare", args, prepare.__doc__), progress=True)
    Console().print(report_table(report))


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
    parsed = _parse(PretrainArgs, "pretrain", rest, description, known)

    from electra_jax.pretrain.curves import draw_curves
    from electra_jax.pretrain.run import pretrain as run
    from electra_jax.training.host import tune_for_cpu

    tune_for_cpu()
    run(parsed.settings, parsed.data, parsed.workdir, Console())
    try:
        draw_curves(parsed.workdir)
    except ImportError as error:
        print(f"electra-jax: no curves.png is drawn, because {error.name} is not installed", file=sys.stderr)


@dataclass(frozen=True, kw_only=True)
class ImportArgs:
    source: Annotated[Path, tyro.conf.arg(name="from")]  # a Hugging Face folder, or a TensorFlow 1 checkpoint
    out: Path  # the imported model's new folder
    format: Literal["huggingface", "tf1"] = "huggingface"
    generator: Path | None = None  # huggingface: the folder of the discriminator's own generator
    vocab: Path | None = None  # tf1: the vocab.txt it was trained with
    cased: bool = False  # tf1: capitals and accents count
    head_size: int | None = None  # tf1: of an attention head, which a checkpoint does not say; None: 64, as published


def import_model(args: list[str]) -> None:
    """Bring a published model here: a Hugging Face folder, a TensorFlow 1 checkpoint."""
    parsed = _parse(ImportArgs, "import", args, import_model.__doc__)
    from electra_jax.interop.portable import describe, read_huggingface, write_imported

    if parsed.format == "tf1":
        if parsed.vocab is None or parsed.generator is not None:
            raise UserError(
                "a TensorFlow 1 checkpoint holds both networks and no vocabulary: give --vocab vocab.txt only"
            )
        from electra_jax.interop.tf1 import read_tf1

        model = read_tf1(parsed.source, parsed.vocab, not parsed.cased, head_size=parsed.head_size or 64)
    elif parsed.vocab or parsed.head_size or parsed.cased:
        raise UserError("a Hugging Face folder says its vocabulary, casing and heads itself: leave these options out")
    else:
        model = read_huggingface(parsed.source, parsed.generator)
    write_imported(parsed.out, model)
    print(f"{parsed.out}: {describe(model)}")


@dataclass(frozen=True, kw_only=True)
class ExportArgs:
    run: Path  # a run or an imported model
    out: Path  # a new folder
    format: Literal["huggingface", "stablehlo"] = "huggingface"
    step: int | None = None  # a checkpoint; None: the newest


def export(args: list[str]) -> None:
    """Give a model away: Hugging Face folders, or programs that need JAX alone."""
    parsed = _parse(ExportArgs, "export", args, export.__doc__)
    from electra_jax.interop.export import export_huggingface, export_stablehlo
    from electra_jax.interop.model_card import read_facts

    run = _load(parsed.run, parsed.step)
    model = (parsed.out, run.model.networks, run.params, run.tokenizer)
    if parsed.format == "stablehlo":
        written = export_stablehlo(*model, run.length)
    else:
        written = export_huggingface(*model, read_facts(parsed.run, run.step, run.config))
    for path in written:
        print(path)


@dataclass(frozen=True, kw_only=True)
class FlopsArgs:
    settings: Annotated[PretrainConfig, tyro.conf.arg(name="")]
    json: bool = False  # one object, for programs


def flops(args: list[str]) -> None:
    """Count a run's FLOPs, by the paper's way and as computed."""
    config, rest, description = _preset("flops", args, flops.__doc__)
    parsed = _parse(FlopsArgs, "flops", rest, description, {"settings": config})
    from electra_jax.scale.show import flops_json, show_flops

    if parsed.json:
        print(json.dumps(flops_json(parsed.settings)))
    else:
        show_flops(parsed.settings, Console())


@dataclass(frozen=True, kw_only=True)
class EvaluateArgs:
    run: Path  # a run's folder
    data: Path  # a data set made with the run's tokenizer
    rows: int | None = None  # of the held-out rows, the first so many; None: all
    step: int | None = None  # a checkpoint; None: the newest
    table: bool = False  # for people: what was learned, next to doing nothing


def evaluate(args: list[str]) -> None:
    """Measure a run on held-out rows, as JSON or a table."""
    parsed = _parse(EvaluateArgs, "evaluate", args, evaluate.__doc__)
    from electra_jax.text.rows import open_data_set

    data_set = open_data_set(parsed.data)
    run = _load(parsed.run, parsed.step)
    metrics = run.evaluate(data_set, parsed.rows)
    if parsed.table:
        from electra_jax.pretrain.show import show_learned

        return show_learned(metrics, data_set.unigram, Console())
    held_out = len(data_set.valid)
    about = {"run": str(parsed.run), "step": run.step, "data": str(parsed.data)}
    about["rows"] = held_out if parsed.rows is None else min(parsed.rows, held_out)
    print(json.dumps(about | {name: value if math.isfinite(value) else None for name, value in metrics.items()}))
    return None


@dataclass(frozen=True, kw_only=True)
class TextArgs:
    # Without any, or with -, standard input is read, one text a line.
    texts: Annotated[tyro.conf.Positional[tuple[str, ...]], tyro.conf.arg(metavar="TEXT ...")] = ()
    run: Path  # a run's folder
    file: Path | None = None  # texts, one a line
    json: bool = False  # one object a text and line, for programs
    step: int | None = None  # a checkpoint; None: the newest


def detect(args: list[str]) -> None:
    """Show each token's probability of having been replaced."""
    parsed = _parse(TextArgs, "detect", args, detect.__doc__)
    from electra_jax.pretrain.show import show_detection

    _answer(parsed, lambda run, texts: run.detect(texts), show_detection)


@dataclass(frozen=True, kw_only=True)
class FillMaskArgs(TextArgs):
    top: int = 5  # candidates for each [MASK]


def fill_mask(args: list[str]) -> None:
    """Show what the generator would write for each [MASK]."""
    parsed = _parse(FillMaskArgs, "fill-mask", args, fill_mask.__doc__)
    from electra_jax.pretrain.show import show_filled

    _answer(parsed, lambda run, texts: [run.fill_mask(text, parsed.top) for text in texts], show_filled)


@dataclass(frozen=True, kw_only=True)
class CorruptArgs(TextArgs):
    seed: int = 0  # another one masks and writes something else


def corrupt(args: list[str]) -> None:
    """Show what the generator writes, next to what the discriminator suspects."""
    parsed = _parse(CorruptArgs, "corrupt", args, corrupt.__doc__)
    from electra_jax.pretrain.show import show_corruption

    _answer(parsed, lambda run, texts: [run.corrupt(text, parsed.seed) for text in texts], show_corruption)


COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "prepare": prepare,
    "pretrain": pretrain,
    "flops": flops,
    "import": import_model,
    "export": export,
    "evaluate": evaluate,
    "detect": detect,
    "fill-mask": fill_mask,
    "corrupt": corrupt,
}


def main(argv: list[str] | None = None) -> int:
    """Runs a command. Exit codes: 0; 2 the user can mend it; 1 the machine failed; 128 + n stopped by signal n."""
    args = sys.argv[1:] if argv is None else argv
    if not args or args[0] in ("-h", "--help"):
        print("usage: electra-jax COMMAND [OPTIONS]; electra-jax COMMAND --help lists a command's options\n")
        for name, command in COMMANDS.items():
            print(f"  {name:10}  {command.__doc__}")
        return 0
    try:
        if args[0] not in COMMANDS:
            raise UserError(f"there is no command {args[0]!r}: choose one of {', '.join(COMMANDS)}")
        COMMANDS[args[0]](args[1:])
        sys.stdout.flush()
    except UserError as error:
        return _say(str(error), error.exit_code)
    except KeyboardInterrupt:
        return _say("stopped by SIGINT", 130)
    except BrokenPipeError:
        # The reader of our output has gone (`| head`); nothing more can be said to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        where = f" {error.filename}" if error.filename else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return _say(f"no space left on the disk for{where or ' the output'}: make room and start again", 1)
        return _say(f"cannot use{where}: {error.strerror or error}", 1)
    except RuntimeError as error:
        # What jax says of the device; a bug of ours keeps its traceback.
        first = str(error).partition("\n")[0]
        if type(error).__name__ == "JaxRuntimeError" and first.startswith("RESOURCE_EXHAUSTED"):
            advice = "raise runtime.micro-batches, or set JAX_PLATFORMS=cpu where another process holds the accelerator"
            return _say(f"the device's memory is too small ({first}): {advice}", 1)
        if first.startswith("Unable to initialize backend"):
            return _say(f"jax finds no such device ({first}): mend JAX_PLATFORMS or jax's installation", 1)
        raise
    return 0


def _answer(
    args: TextArgs, ask: "Callable[[Pretrained, list[str]], Iterable[Any]]", show: Callable[[Any, Console], None]
) -> None:
    """Asks a run about each text, a few texts at a time, and prints the answers as they come."""
    texts = _texts(args)
    some = list(islice(texts, TEXTS_AT_ONCE))
    run, console = _load(args.run, args.step), Console()
    while some:
        for answer in ask(run, some):
            if args.json:
                print(json.dumps(dataclasses.asdict(answer)))
            else:
                show(answer, console)
        some = list(islice(texts, TEXTS_AT_ONCE))


def _texts(args: TextArgs) -> Iterator[str]:
    """The texts named, or the lines of the file or of standard input that are not blank.

    Raises UserError where there is none, or bytes that are not UTF-8.
    """
    if args.file is not None and args.texts:
        raise UserError("give texts or --file, not both")
    if args.texts and args.texts != ("-",):
        yield from args.texts
        return
    where = "standard input" if args.file is None else str(args.file)
    try:
        file = sys.stdin.buffer if args.file is None else open(args.file, "rb")  # noqa: SIM115 closed below
    except OSError as error:
        raise UserError(f"{where} cannot be opened: {error.strerror}") from None
    found = False
    with file:
        for number, line in enumerate(file, 1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                byte = f"byte 0x{line[error.start]:02x} at {error.start + 1}"
                raise UserError(f"{where}, line {number} is not UTF-8 ({byte}): convert it first") from None
            if text.strip():
                found = True
                yield text
    if not found:
        raise UserError(f"{where} holds no text: give at least one line with a word in it")


def _load(run: Path, step: int | None) -> "Pretrained":
    from electra_jax.pretrain.loading import load

    return load(run, step, report=lambda sentence: print(f"electra-jax: {sentence}", file=sys.stderr))


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


def _parse(
    kind: type[T], command: str, args: list[str], description: str | None, known: dict[str, Any] | None = None
) -> T:
    default = kind(**known) if known else None
    options: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(kind, prog=f"electra-jax {command}", args=args, description=description, **options)


def _say(sentence: str, code: int) -> int:
    print(f"electra-jax: {sentence}", file=sys.stderr)
    return code


def entry() -> None:
    """The console script."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows a question mark
    sys.exit(main())
