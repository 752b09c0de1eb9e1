"""Rows on disk: written as a stream, checksummed, memory-mapped.

A data set is a folder of `train-00000.npy` … and `valid-00000.npy` … (uint16, or uint32 for a vocabulary of
65,536 and more), `unigram.npy`, `tokenizer/` and `meta.json`.
"""

import hashlib
import io
import json
import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Int, Int64, Integer

from electra_jax.config import SpecialTokens
from electra_jax.errors import MachineError, UserError
from electra_jax.files import sha256_of, write_json

FORMAT = 1
META = "meta.json"
UNIGRAM = "unigram.npy"
TOKENIZER = "tokenizer"
SHARD_BYTES = 64 * 2**20
_HEADER = 128  # bytes of an .npy header, padded so that the number of rows can be filled in at the end
_REMAKE = "copy the data set again, or prepare it anew"


def row_dtype(vocab_size: int) -> np.dtype:
    """The type of the token ids in rows of a vocabulary."""
    return np.dtype("<u2" if vocab_size < 65536 else "<u4")


class RowsWriter:
    """Writes the shards `{split}-00000.npy` … into a folder as rows come in. A context manager."""

    def __init__(self, folder: Path, split: str, length: int, vocab_size: int) -> None:
        self._folder, self._split, self._length = folder, split, length
        self._dtype = row_dtype(vocab_size)
        self._most = max(1, SHARD_BYTES // (length * self._dtype.itemsize))
        self._file: io.FileIO | None = None
        self._in_file = 0
        self.num_rows = 0
        self.files: list[tuple[str, int]] = []  # name and rows

    def __enter__(self) -> "RowsWriter":
        return self

    def __exit__(self, *error: object) -> None:
        if error[0] is None:
            self._finish_file()
        elif self._file is not None:
            self._file.close()

    def add(self, rows: Integer[np.ndarray, "rows length"]) -> None:
        """Appends rows, starting new shards as they fill."""
        while len(rows):
            if self._file is None:
                name = f"{self._split}-{len(self.files):05d}.npy"
                # Unbuffered, so that closing never writes: on a full disk it would fail a second time.
                self._file = open(self._folder / name, "wb", buffering=0)  # noqa: SIM115 - open across calls
                _write(self._file, bytes(_HEADER))
                self.files.append((name, 0))
            part, rows = rows[: self._most - self._in_file], rows[self._most - self._in_file :]
            _write(self._file, np.ascontiguousarray(part, self._dtype).tobytes())
            self._in_file += len(part)
            self.num_rows += len(part)
            if self._in_file == self._most:
                self._finish_file()

    def _finish_file(self) -> None:
        if self._file is None:
            return
        with self._file as file:
            shape = (self._in_file, self._length)
            text = f"{{'descr': '{self._dtype.str}', 'fortran_order': False, 'shape': {shape}, }}"
            size = _HEADER - 10
            file.seek(0)
            _write(file, b"\x93NUMPY\x01\x00" + struct.pack("<H", size) + text.ljust(size - 1).encode() + b"\n")
            os.fsync(file.fileno())
        self.files[-1] = (self.files[-1][0], self._in_file)
        self._file, self._in_file = None, 0


def _write(file: io.FileIO, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[file.write(view) :]


class Rows:
    """A read-only view of rows across memory-mapped shards, [len(self), length]."""

    def __init__(self, shards: Sequence[np.ndarray], length: int, dtype: np.dtype) -> None:
        self._shards = [np.asarray(shard) for shard in shards]  # plain views: memmap's own indexing is slow
        self._ends = np.cumsum([len(shard) for shard in shards], dtype=np.int64)
        self.length, self.dtype = length, dtype

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def take(self, indices: Int[np.ndarray, " n"]) -> Integer[np.ndarray, "n length"]:
        """The rows at these indices, in memory. Raises IndexError for an index outside [0, len(self))."""
        if len(indices) and not (indices.min() >= 0 and indices.max() < len(self)):
            raise IndexError(f"rows are numbered 0 to {len(self) - 1}")
        if len(self._shards) == 1:
            return self._shards[0][indices]
        found = np.empty((len(indices), self.length), self.dtype)
        which = np.searchsorted(self._ends, indices, side="right")
        for number in np.unique(which):
            here = np.flatnonzero(which == number)
            shard = self._shards[number]
            found[here] = shard[indices[here] - (self._ends[number] - len(shard))]
        return found


@dataclass(frozen=True)
class DataSet:
    """An open data set."""

    folder: Path
    meta: dict[str, Any]
    train: Rows
    valid: Rows
    unigram: Int64[np.ndarray, " vocab"]  # how often each token stands in the training rows, special ones never

    @property
    def length(self) -> int:
        return int(self.meta["length"])

    @property
    def special(self) -> SpecialTokens:
        return SpecialTokens(**self.meta["tokenizer"]["special"])

    @property
    def vocab_size(self) -> int:
        return int(self.meta["tokenizer"]["vocab_size"])

    @property
    def tokenizer_folder(self) -> Path:
        return self.folder / TOKENIZER

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the rows are: their form, their tokenizer and the checksums of all files."""
        return str(self.meta["fingerprint"])


def finish_data_set(folder: Path, meta: dict[str, Any], shards: Sequence[tuple[str, int]]) -> None:
    """Completes `meta` (length, packing, tokenizer settings, counts, …) with every file's checksum; writes it."""
    rows = dict(shards)
    paths = sorted(p for p in folder.rglob("*") if p.is_file())
    files: dict[str, Any] = {}
    for path in paths:
        name = path.relative_to(folder).as_posix()
        files[name] = {"bytes": path.stat().st_size, "sha256": sha256_of(path)}
        if name in rows:
            files[name]["rows"] = rows[name]
    meta = {"format": FORMAT, **meta, "files": files}
    write_json(folder / META, {"fingerprint": _fingerprint(meta), **meta})


def _fingerprint(meta: dict[str, Any]) -> str:
    identity = {name: meta[name] for name in ("format", "length", "packing", "tokenizer", "files")}
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()


def open_data_set(folder: Path, verify: bool = True) -> DataSet:
    """Opens a data set; with `verify`, after reading every file's checksum.

    Raises UserError where the folder is no data set, MachineError where a file of it is missing or damaged.
    """
    try:
        meta = json.loads((folder / META).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise UserError(f"{folder} is not a data set, for it has no {META}: make one with prepare") from None
    except (OSError, ValueError) as error:
        raise MachineError(f"{folder / META} cannot be read ({error}): {_REMAKE}") from None
    if not isinstance(meta, dict) or meta.get("format") != FORMAT:
        raise UserError(f"{folder} is not a data set of format {FORMAT}: make it anew with this version's prepare")
    try:
        intact = meta["fingerprint"] == _fingerprint(meta)
    except KeyError:
        intact = False
    if not intact:
        raise MachineError(f"{folder / META} is damaged, for it does not match its own checksum: {_REMAKE}")
    for name, file in meta["files"].items():
        _check(folder / name, file, verify)
    dtype = row_dtype(meta["tokenizer"]["vocab_size"])
    splits = {
        split: Rows(
            [_open(folder / name) for name in meta["files"] if name.startswith(f"{split}-")],
            meta["length"],
            dtype,
        )
        for split in ("train", "valid")
    }
    unigram = np.load(folder / UNIGRAM, allow_pickle=False)
    return DataSet(folder, meta, splits["train"], splits["valid"], unigram)


def _check(path: Path, file: dict[str, Any], verify: bool) -> None:
    try:
        size = path.stat().st_size
        if size != file["bytes"]:
            raise MachineError(f"{path} holds {size:,} bytes where {file['bytes']:,} were written: {_REMAKE}")
        if verify and sha256_of(path) != file["sha256"]:
            raise MachineError(f"{path} is damaged, for its checksum is not the one it was written with: {_REMAKE}")
    except FileNotFoundError:
        raise MachineError(f"{path} is missing: {_REMAKE}") from None
    except OSError as error:
        raise MachineError(f"{path} cannot be read: {error.strerror}") from None


def _open(path: Path) -> np.ndarray:
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise MachineError(f"{path} cannot be read ({error}): {_REMAKE}") from None
