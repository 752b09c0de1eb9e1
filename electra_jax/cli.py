"""`electra-jax COMMAND`: parse, call one function, print."""

import argparse
import errno
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, TypeVar

import tyro
from rich.console import Console

from electra_jax.config import PrepareConfig, PretrainConfig, load_preset, with_objective
from electra_jax.errors import UserError

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
    first.add_argument("--config", type=Path)
    first.add_argument("--objective", choices=("electra", "mlm"))
    known, rest = first.parse_known_args(args)
    if known.config is None:
        raise UserError("pretrain needs --config, a preset such as configs/small.py")
    config = load_preset(known.config)
    if known.objective is not None:
        config = with_objective(config, known.objective)
    description = f"{pretrain.__doc__} Defaults: {known.config}; --objective electra|mlm picks the preset's twin."
    parsed = _parse(PretrainArgs, "pretrain", rest, description, {"settings": config})

    from electra_jax.pretrain.curves import draw_curves
    from electra_jax.pretrain.run import pretrain as run

    run(parsed.settings, parsed.data, parsed.workdir, Console())
    draw_curves(parsed.workdir)


COMMANDS: dict[str, Callable[[list[str]], None]] = {"prepare": prepare, "pretrain": pretrain}


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
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return _say(f"no space left on the disk for{where or ' the output'}: make room and start again", 1)
        return _say(f"cannot use{where}: {error.strerror or error}", 1)
    return 0


def _parse(
    kind: type[T], command: str, args: list[str], description: str | None, known: dict[str, Any] | None = None
) -> T:
    default = kind(**dict.fromkeys(("data", "workdir"), tyro.MISSING), **known) if known else None
    options: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(kind, prog=f"electra-jax {command}", args=args, description=description, **options)


def _say(sentence: str, code: int) -> int:
    print(f"electra-jax: {sentence}", file=sys.stderr)
    return code


def entry() -> None:
    """The console script."""
    sys.exit(main())
