"""From arguments to settings, by tyro."""

from typing import Any, TypeVar

import tyro

T = TypeVar("T")


def parse(
    kind: type[T], command: str, args: list[str], description: str | None, known: dict[str, Any] | None = None
) -> T:
    """The arguments as `kind`; `known` are the values that need none. Exits with 2 where they do not fit."""
    default = kind(**known) if known else None
    options: dict[str, Any] = {} if default is None else {"default": default}
    return tyro.cli(kind, prog=f"electra-jax {command}", args=args, description=description, **options)
