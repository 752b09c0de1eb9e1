"""detect, fill-mask, corrupt."""

import dataclasses
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro
from rich.console import Console

from electra_jax.commands.opening import load_model
from electra_jax.commands.parsing import parse
from electra_jax.errors import UserError

if TYPE_CHECKING:
    from electra_jax.pretrain.pretrained import Pretrained

TEXTS_AT_ONCE = 64


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
    parsed = parse(TextArgs, "detect", args, detect.__doc__)
    from electra_jax.pretrain.show import show_detection

    _answer(parsed, lambda run, texts: run.detect(texts), show_detection)


@dataclass(frozen=True, kw_only=True)
class FillMaskArgs(TextArgs):
    top: int = 5  # candidates for each [MASK]


def fill_mask(args: list[str]) -> None:
    """Show what the generator would write for each [MASK]."""
    parsed = parse(FillMaskArgs, "fill-mask", args, fill_mask.__doc__)
    from electra_jax.pretrain.show import show_filled

    _answer(parsed, lambda run, texts: [run.fill_mask(text, parsed.top) for text in texts], show_filled)


@dataclass(frozen=True, kw_only=True)
class CorruptArgs(TextArgs):
    seed: int = 0  # another one masks and writes something else


def corrupt(args: list[str]) -> None:
    """Show what the generator writes, next to what the discriminator suspects."""
    parsed = parse(CorruptArgs, "corrupt", args, corrupt.__doc__)
    from electra_jax.pretrain.show import show_corruption

    _answer(parsed, lambda run, texts: [run.corrupt(text, parsed.seed) for text in texts], show_corruption)


def _answer(
    args: TextArgs, ask: "Callable[[Pretrained, list[str]], Iterable[Any]]", show: Callable[[Any, Console], None]
) -> None:
    """Asks a run about each text, a few texts at a time, and prints the answers as they come."""
    texts = _texts(args)
    some = list(islice(texts, TEXTS_AT_ONCE))
    run, console = load_model(args.run, args.step), Console()
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
