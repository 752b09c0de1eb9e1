"""Lines of the files that hold examples: numbered, decoded, and what becomes of the bad ones."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from electra_jax.errors import MachineError, UserError

_BLOCK = 2**20
_HINT = "mend it, or leave such places out with --skip-bad"


class BrokenRow(UserError):
    """A row of the wrong width or with a blank text, which some tasks leave out unasked."""


@dataclass
class Refusals:
    """What becomes of a place that cannot be read: it ends the reading, or it is counted and left out."""

    skip: bool
    hint: str = _HINT
    skip_broken: bool = False
    count: int = 0
    first: str = ""

    def take(self, error: UserError) -> None:
        """Raises the error with the hint, unless such places are to be skipped."""
        if not (self.skip or (self.skip_broken and isinstance(error, BrokenRow))):
            raise UserError(f"{error}: {self.hint}") from None
        self.first = self.first or str(error)
        self.count += 1

    def tell(self, name: str, report: Callable[[str], None]) -> None:
        """Says once, at the end, how much was left out."""
        if self.count:
            places = "1 place" if self.count == 1 else f"{self.count:,} places"
            report(f"{name}: {places} left out, the first: {self.first}")


def noting(report: Callable[[str], None]) -> tuple[list[str], Callable[[str], None]]:
    """A list, and what reports a sentence and adds it to the list: no result may be read without it."""
    notes: list[str] = []

    def tell(note: str) -> None:
        notes.append(note)
        report(note)

    return notes, tell


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file from 1 on, their ends included, without a byte order mark.

    A byte that is not UTF-8 stands as the lone surrogate that `check_decoded` finds: so its line can be left out.
    Raises UserError where the file is missing or binary.
    """
    try:
        with open(path, "rb") as file:
            if b"\0" in file.read(_BLOCK):
                raise UserError(f"{path} is a binary file, or UTF-16, for it holds NUL bytes: name a UTF-8 text file")
            file.seek(0)
            for number, line in enumerate(file, 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape")
    except FileNotFoundError:
        raise UserError(f"there is no file {path}: check its name") from None
    except IsADirectoryError:
        raise UserError(f"{path} is a folder: name a file in it") from None
    except OSError as error:
        raise MachineError(f"{path} cannot be read: {error.strerror}") from None


def check_decoded(line: str, where: str) -> None:
    """Raises UserError where the line held bytes that are not UTF-8, or a NUL."""
    if not line.isascii():
        try:
            line.encode()
        except UnicodeEncodeError as error:
            byte = ord(line[error.start]) - 0xDC00
            raise UserError(f"{where} is not UTF-8 (byte 0x{byte:02x} after {error.start} characters)") from None
    if "\0" in line:
        raise UserError(f"{where} holds a NUL byte, which is no text")


def place(path: Path | str, number: int) -> str:
    """How messages name a line."""
    return f"{path}, line {number}"


def listed(names: Iterable[str], limit: int = 12) -> str:
    """Names for a message, the first few of them."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(repr, names[:limit])) + more if names else "none"
