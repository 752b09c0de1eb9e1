"""Where documents come from: text and JSONL files, TFDS, the docstrings of what is installed.

A document is its lines joined by newlines, none of them blank: one paragraph or sentence a line where the
source has it so. Everything is streamed, through reads of a bounded size.
"""

import glob
import importlib.util
import io
import json
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from electra_jax.config import PrepareConfig
from electra_jax.errors import MachineError, UserError

MAX_LINE = 16 * 2**20  # bytes; a longer line is taken for a broken or binary file
# Characters; a longer document goes on as another one, at the end of a line, so that memory stays bounded.
MAX_DOCUMENT = 4 * 2**20

SUFFIXES = (".txt", ".jsonl", ".json")
COMPRESSIONS = (".gz", ".xz", ".zst")
_BLOCK = 2**20
_SKIP_HINT = "mend it, or leave such places out with --skip-bad"


@dataclass
class Meter:
    """How many bytes of the source on disk have been read; a progress bar looks at it from time to time."""

    finished: int = 0
    file: IO[bytes] | None = None

    def position(self) -> int:
        at_work = self.file is not None and not self.file.closed and self.file.seekable()  # a pipe has no position
        return self.finished + (self.file.tell() if self.file is not None and at_work else 0)


@dataclass(frozen=True)
class Source:
    """One file or set that yields documents."""

    name: str
    size: int | None  # bytes on disk, where that is known
    read: Callable[[Counter[str], Meter], Iterator[str]] = field(repr=False)


def documents(spec: str, config: PrepareConfig, skipped: Counter[str]) -> Iterator[str]:
    """The documents of a spec, in a fixed order; what `config.skip_bad` leaves out is counted by reason.

    Raises UserError where the spec names nothing, holds no text, or something in it cannot be read.
    """
    found = False
    for source in sources(spec, config):
        for document in source.read(skipped, Meter()):
            found = True
            yield document
    if not found:
        raise UserError(f"{spec} holds no text: name a corpus with at least one document")


def sources(spec: str, config: PrepareConfig) -> list[Source]:
    """What a spec names: `docstrings`, `tfds:…`, a file, a folder (all its text files), or a pattern.

    Raises UserError where there is nothing of that name.
    """
    if spec == "docstrings":
        return [Source(spec, None, _docstrings)]
    if spec.startswith("tfds:"):
        return [Source(spec, None, lambda skipped, meter: _tfds(spec, config, skipped))]
    path = Path(spec).expanduser()
    if path.is_dir():
        paths = [p for p in _walk(path) if _kind(p) is not None]
        if not paths:
            raise UserError(f"the folder {spec} holds no {', '.join(SUFFIXES)} file, plain or compressed")
    elif path.exists():
        paths = [path]
    else:
        paths = [Path(p) for p in sorted(glob.glob(str(path), recursive=True)) if os.path.isfile(p)]
        if not paths and glob.has_magic(spec):
            raise UserError(f"no file matches the pattern {spec}: check its spelling")
        if not paths:
            raise UserError(
                f"there is no file {spec}: name a text or JSONL file, a folder, a pattern, tfds:… or docstrings"
            )
    for once in paths:
        if once.exists() and not once.is_file() and config.tokenizer_file is None:
            raise UserError(
                f"{once} can be read only once, and a tokenizer would be trained on it first: give --tokenizer-file, "
                "or write the text to a file"
            )
    explicit = not path.is_dir()
    return [Source(str(p), _size(p), _file_reader(p, config, explicit)) for p in paths]


def _size(path: Path) -> int | None:
    # A pipe or a device has no size to wait for.
    return path.stat().st_size if path.is_file() else None


def _walk(folder: Path) -> Iterator[Path]:
    for root, folders, names in os.walk(folder):
        folders.sort()
        yield from (Path(root, name) for name in sorted(names))


def _kind(path: Path) -> str | None:
    name = path.name.lower()
    for suffix in COMPRESSIONS:
        name = name.removesuffix(suffix)
    return next((suffix for suffix in SUFFIXES if name.endswith(suffix)), None)


def _file_reader(path: Path, config: PrepareConfig, explicit: bool) -> Callable[[Counter[str], Meter], Iterator[str]]:
    def read(skipped: Counter[str], meter: Meter) -> Iterator[str]:
        found = False
        lines = _lines(path, config.skip_bad, skipped, meter)
        records = _kind(path) in (".jsonl", ".json")
        for document in _from_jsonl(path, lines, config, skipped) if records else _from_text(lines, config):
            found = True
            yield document
        if explicit and not found:
            if not config.skip_bad:
                raise UserError(f"{path} holds no text: name a file with at least one document")
            skipped["file without text"] += 1

    return read


def _from_text(lines: Iterator[tuple[int, str]], config: PrepareConfig) -> Iterator[str]:
    held: list[str] = []
    size = 0
    for _, line in lines:
        line = line.strip()
        if line:
            held.append(line)
            size += len(line) + 1
        if held and (size > MAX_DOCUMENT or not (line or config.document_per_file)):
            yield "\n".join(held)
            held, size = [], 0
    if held:
        yield "\n".join(held)


def _from_jsonl(
    path: Path, lines: Iterator[tuple[int, str]], config: PrepareConfig, skipped: Counter[str]
) -> Iterator[str]:
    for number, line in lines:
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            _skip(config.skip_bad, skipped, "broken JSON line",
                  f"{path}, line {number} is not one whole JSON object: {_SKIP_HINT}")  # fmt: skip
            continue
        if not isinstance(record, dict) or config.field not in record:
            has = f"it has {', '.join(map(repr, list(record)[:5]))}" if isinstance(record, dict) else "no object"
            _skip(config.skip_bad, skipped, f"record without {config.field!r}",
                  f"{path}, line {number} has no field {config.field!r} ({has}): name the right field, "
                  f"{_SKIP_HINT}")  # fmt: skip
            continue
        if not isinstance(record[config.field], str):
            _skip(config.skip_bad, skipped, f"{config.field!r} is not text",
                  f"{path}, line {number}: the field {config.field!r} is not text but "
                  f"{type(record[config.field]).__name__}: {_SKIP_HINT}")  # fmt: skip
            continue
        yield from _whole(record[config.field])


def _whole(text: str) -> Iterator[str]:
    """A text held in memory as documents: no blank lines, no lone surrogates, none over MAX_DOCUMENT by far."""
    if not text.isascii():
        # JSON can spell half of a surrogate pair, which is no text and which no tokenizer takes.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    yield from _from_text(enumerate(text.split("\n")), _ONE_DOCUMENT)


def _lines(path: Path, skip_bad: bool, skipped: Counter[str], meter: Meter) -> Iterator[tuple[int, str]]:
    """Numbered lines of a file, decompressed and decoded, without their line ends."""
    try:
        raw = io.BufferedReader(io.FileIO(path), _BLOCK)
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror}") from None
    meter.file = raw
    number = 0
    try:
        stream = _decompressed(path, raw)
        if b"\0" in stream.peek(_BLOCK):
            _skip(skip_bad, skipped, "binary file",
                  f"{path} is a binary file, or UTF-16, for it holds NUL bytes: name UTF-8 text files")  # fmt: skip
            return
        while line := stream.readline(MAX_LINE + 1):
            number += 1
            if len(line) > MAX_LINE:
                _skip(skip_bad, skipped, "line over 16 MB",
                      f"{path}, line {number} is over {MAX_LINE // 2**20} MB: break it into lines")  # fmt: skip
                while line and not line.endswith(b"\n"):
                    line = stream.readline(_BLOCK)
                continue
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                _skip(skip_bad, skipped, "line that is not UTF-8",
                      f"{path}, line {number} is not UTF-8 (byte 0x{line[error.start]:02x} at "
                      f"{error.start + 1}): convert the file, or leave such lines out with --skip-bad")  # fmt: skip
                continue
            if "\0" in text:
                _skip(skip_bad, skipped, "line with NUL bytes",
                      f"{path}, line {number} holds a NUL byte, which is no text: {_SKIP_HINT}")  # fmt: skip
                continue
            yield number, text
    except Exception as error:
        # Not in the clause: a generator that is closed while Python ends would import there, and fail.
        if not isinstance(error, (OSError, EOFError, zlib.error, _lzma_error(), _zstd_error())):
            raise
        _damaged(path, number, skip_bad, skipped, error)
    finally:
        meter.finished = meter.position()
        meter.file = None
        raw.close()


def _damaged(path: Path, number: int, skip_bad: bool, skipped: Counter[str], error: Exception) -> None:
    if isinstance(error, OSError) and error.errno is not None:
        raise MachineError(f"{path} cannot be read after line {number}: {error.strerror}") from None
    _skip(skip_bad, skipped, "rest of a damaged file",
          f"{path} is damaged or cut off after line {number} ({error or 'it ends too soon'}): "
          "fetch the file again, or take what can be read with --skip-bad")  # fmt: skip


def _skip(skip_bad: bool, skipped: Counter[str], reason: str, sentence: str) -> None:
    if not skip_bad:
        raise UserError(sentence)
    skipped[reason] += 1


def _decompressed(path: Path, raw: Any) -> io.BufferedReader:
    match path.suffix.lower():
        case ".gz":
            import gzip

            return io.BufferedReader(gzip.GzipFile(fileobj=raw), _BLOCK)
        case ".xz":
            import lzma

            return io.BufferedReader(lzma.LZMAFile(raw), _BLOCK)
        case ".zst":
            return io.BufferedReader(_Zstd(path, raw), _BLOCK)
    return raw


class _Zstd(io.RawIOBase):
    """zstandard's own reader takes a file that was cut off for one that has ended."""

    _CHUNK = 1024  # bytes, which at the worst are 32 MB of text

    def __init__(self, path: Path, raw: IO[bytes]) -> None:
        try:
            import zstandard
        except ImportError:
            raise UserError(f"{path} needs the package zstandard: pip install zstandard") from None
        self._new_frame = zstandard.ZstdDecompressor().decompressobj
        self._raw, self._frame = raw, self._new_frame()
        self._input, self._output = b"", memoryview(b"")
        self._within = False  # a frame that has begun and not ended

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._output:
            self._input = self._input or self._raw.read(self._CHUNK)
            if not self._input:
                if self._within:
                    raise EOFError("it ends within a frame")
                return 0
            self._output, self._within = memoryview(self._frame.decompress(self._input)), True
            self._input = b""
            if self._frame.eof:
                self._input, self._within, self._frame = self._frame.unused_data, False, self._new_frame()
        size = min(len(buffer), len(self._output))
        buffer[:size], self._output = self._output[:size], self._output[size:]
        return size


def _lzma_error() -> type[Exception]:
    import lzma

    return lzma.LZMAError


def _zstd_error() -> type[Exception]:
    try:
        import zstandard
    except ImportError:
        return EOFError
    return zstandard.ZstdError


def _docstrings(skipped: Counter[str], meter: Meter) -> Iterator[str]:
    from electra_jax.text.docstrings import harvest

    found, unread = harvest()
    skipped.update(unread)
    for document in found:
        yield from _whole(document)


def _tfds(spec: str, config: PrepareConfig, skipped: Counter[str]) -> Iterator[str]:
    parts = re.fullmatch(r"tfds:(?P<name>[^:#]+)(?::(?P<split>[^#]+))?(?:#(?P<field>.+))?", spec)
    if parts is None:
        raise UserError(f"{spec} is not of the form tfds:NAME/VERSION:SPLIT#FIELD")
    name, split, key = parts["name"], parts["split"] or "train", parts["field"] or config.field
    rows = _tfds_rows(spec, name, split)
    for number in range(len(rows)):
        record = rows[number]
        if key not in record:
            raise UserError(f"{name} has no field {key!r}: it has {', '.join(map(repr, record))}")
        value = record[key]
        if isinstance(value, bytes):
            value = value.decode("utf-8", "replace")
        if not isinstance(value, str):
            _skip(config.skip_bad, skipped, f"{key!r} is not text",
                  f"{spec}, record {number}: the field {key!r} is not text: {_SKIP_HINT}")  # fmt: skip
            continue
        yield from _whole(value)


def _tfds_rows(spec: str, name: str, split: str) -> Any:
    try:
        import tensorflow_datasets as tfds
    except ImportError:
        raise UserError(f"{spec} needs the package tensorflow-datasets: pip install tensorflow-datasets") from None
    try:
        # TFDS has a colon before the version, and looks for its folder's name only while it is imported.
        builder = tfds.builder(re.sub(r"/(\d[\d.*]*)$", r":\1", name), data_dir=os.environ.get("TFDS_DATA_DIR"))
        known = list(builder.info.splits)
        if not known:
            raise UserError(
                f"{name} is not on this machine: download it with tfds.builder({name!r}, "
                "file_format='array_record').download_and_prepare(), then run this again"
            )
        if re.split(r"[\[+]", split)[0] not in known:
            raise UserError(f"{name} has no split {split!r}: it has {', '.join(known)}")
        return builder.as_data_source(split)
    except UserError:
        raise
    except Exception as error:  # what TFDS raises differs by data set and by what is installed
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if importlib.util.find_spec("tensorflow") is None:
            raise UserError(
                f"{name} cannot be opened here ({reason}): check the name, and whether it needs TensorFlow, "
                "which pip install 'electra-jax[tf]' brings"
            ) from None
        raise UserError(f"{name} cannot be opened: {reason}") from None


_ONE_DOCUMENT = PrepareConfig(out=Path("."), document_per_file=True)
