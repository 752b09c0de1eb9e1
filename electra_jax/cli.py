"""`electra-jax COMMAND`: parse, call one function, print."""

import errno
import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from electra_jax.commands import exchange, finetuning, predicting, pretraining, texts
from electra_jax.errors import UserError

COMMANDS: dict[str, Callable[[list[str]], None]] = {
    "prepare": pretraining.prepare,
    "pretrain": pretraining.pretrain,
    "finetune": finetuning.finetune,
    "glue": finetuning.glue,
    "predict": predicting.predict,
    "flops": pretraining.flops,
    "plan": pretraining.plan,
    "import": exchange.import_model,
    "export": exchange.export,
    "evaluate": predicting.evaluate,
    "detect": texts.detect,
    "fill-mask": texts.fill_mask,
    "corrupt": texts.corrupt,
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
            advice = "raise runtime.micro-batches (pretrain) or lower runtime.members-at-once (finetune), or set "
            advice += "JAX_PLATFORMS=cpu where another process holds the accelerator"
            return _say(f"the device's memory is too small ({first}): {advice}", 1)
        if first.startswith("Unable to initialize backend"):
            return _say(f"jax finds no such device ({first}): mend JAX_PLATFORMS or jax's installation", 1)
        raise
    return 0


def _say(sentence: str, code: int) -> int:
    print(f"electra-jax: {sentence}", file=sys.stderr)
    return code


def entry() -> None:
    """The console script."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # a terminal that lacks a character shows a question mark
    keep_compiled_programs()
    sys.exit(main())


def keep_compiled_programs() -> None:
    """Lets the next run find what this one compiles, where JAX is not told another place. Before jax is imported."""
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return
    with suppress(OSError, RuntimeError):  # no home, or one that cannot be written to
        folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "electra_jax" / "compiled"
        folder.mkdir(parents=True, exist_ok=True)
        if os.access(folder, os.W_OK):
            os.environ["JAX_COMPILATION_CACHE_DIR"] = str(folder)
