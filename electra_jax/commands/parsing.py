"""From arguments to settings, by tyro."""

from typing import Any, TypeVar

import tyro

from electra_jax.errors import UserError

T = TypeVar("T")


# Options of several values, of which the last one given would silently win.
SEVERAL = ("--dev", "--test", "--corpus")


def parse(
    kind: type[T], command: str, args: list[str], description: str | None, known: dict[str, Any] | None = None
) -> T:
    """The arguments as `kind`; `known` are the values that need none. Exits with 2 where they do not fit.

    Raises UserError where an option of several values is there twice.
    """
    for option in SEVERAL:
        if sum(arg == option or arg.startswith(f"{option}=") for arg in args) > 1:
            raise UserError(f"{option} is there twice: name all its values after one, as {option} ONE TWO")
    default = kind(**known) if known else None
    options: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(kind, prog=f"electra-jax {command}", args=args, description=description, **options)
