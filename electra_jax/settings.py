"""What a group of settings is: frozen, typed, checked, and JSON there and back."""

import dataclasses
import sys
import types
import typing
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from electra_jax.errors import UserError

S = TypeVar("S", bound="Settings")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """A frozen group of settings whose values are checked against their declared types."""

    def __post_init__(self) -> None:
        for name, hint in typing.get_type_hints(type(self)).items():
            value = getattr(self, name)
            if not _is_of(value, hint):
                raise UserError(
                    f"{type(self).__name__}.{name} is {value!r}, which is not {_describe(hint)}: mend the setting"
                )
        self.check()

    def check(self) -> None:
        """Raises UserError where the values do not go together."""

    def require(self, condition: bool, sentence: str) -> None:
        """Raises UserError with this group's name and the sentence unless the condition holds."""
        if not condition:
            raise UserError(f"{type(self).__name__}: {sentence}")


def to_json(settings: Settings) -> dict[str, Any]:
    """Plain dictionaries of every setting; `from_json` is its inverse."""
    return dataclasses.asdict(settings)


def from_json(cls: type[S], values: Any, where: str = "config") -> S:
    """Builds a group from `to_json`'s dictionaries.

    A setting that has a default may be missing: the file is older than the setting. So a setting that is added must
    have as its default what was done before there was one, and a default must never change.

    Raises UserError for an unknown setting, for a missing one without a default, and for a value of the wrong type.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where} must hold a group of settings, not {values!r}")
    hints = typing.get_type_hints(cls)
    required = {field.name for field in dataclasses.fields(cls) if _is_required(field)}
    unknown, missing = sorted(values.keys() - hints.keys()), sorted(required - values.keys())
    if unknown or missing:
        raise UserError(f"{where}: unknown settings {unknown}, missing settings {missing}")
    given = {name: hint for name, hint in hints.items() if name in values}
    return cls(**{name: _value(hint, values[name], f"{where}.{name}") for name, hint in given.items()})


def _value(hint: Any, value: Any, where: str) -> Any:
    """What JSON made of a setting's value, back in the type that the setting has."""
    options = typing.get_args(hint) if _is_union(hint) else (hint,)
    group = next((option for option in options if isinstance(option, type) and issubclass(option, Settings)), None)
    if group is not None and not (value is None and type(None) in options):
        return from_json(group, value, where)
    is_tuple = any(typing.get_origin(option) is tuple for option in options)
    return tuple(value) if is_tuple and isinstance(value, list) else value


def _is_required(field: dataclasses.Field) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (types.UnionType, typing.Union)  # Python 3.11 has two forms of it


def _is_of(value: Any, hint: Any) -> bool:
    if typing.get_origin(hint) is Literal:
        return value in typing.get_args(hint)
    if _is_union(hint):
        return any(_is_of(value, option) for option in typing.get_args(hint))
    if hint is float:
        # NaN and infinity fail the comparison, and so does an integer too large for a float.
        return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    if typing.get_origin(hint) is tuple:
        return isinstance(value, tuple) and all(_is_of(item, typing.get_args(hint)[0]) for item in value)
    return isinstance(value, hint)


def _describe(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        return "one of " + ", ".join(map(str, typing.get_args(hint)))
    if _is_union(hint):
        return " or ".join(_describe(option) for option in typing.get_args(hint))
    return "nothing" if hint is type(None) else f"a {getattr(hint, '__name__', hint)}"
