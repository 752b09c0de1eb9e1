"""Files that are whole or absent: written aside, flushed, renamed."""

import hashlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from electra_jax.errors import UserError


@contextmanager
def file_aside(path: Path) -> Iterator[BinaryIO]:
    """Yields a file beside `path` to write; renames it to `path` on success, removes it on any failure."""
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    try:
        with open(aside, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise


def write_file(path: Path, content: bytes | str) -> None:
    """Writes a file so that a reader sees the old content or the new one, never a part."""
    with file_aside(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_json(path: Path, value: Any) -> None:
    """`write_file` of indented JSON with a final newline."""
    write_file(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path, advice: str, *keys: str) -> Any:
    """What a JSON file of ours holds, or what stands under each of these keys.

    Raises UserError, the advice included, where it cannot be read or has no such key.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
        return tuple(value[key] for key in keys) if keys else value
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} cannot be read ({error}): {advice}") from None


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yields a folder beside `path` to fill; renames it to `path` on success, removes it on any failure.

    Raises UserError where `path` is there already and holds anything.
    """
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise UserError(f"{path} exists already: choose another name, or remove it first")
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    aside.mkdir()
    try:
        yield aside
        if path.is_dir():
            path.rmdir()
        os.rename(aside, path)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def sha256_of(path: Path) -> str:
    """The hex SHA-256 of a file's bytes."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
