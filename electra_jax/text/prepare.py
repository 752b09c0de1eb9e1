"""Documents -> a data set of rows, over all cores.

The parent reads documents, divides them into training and held-out ones and hands them out in blocks; worker
processes encode and pack; the parent writes what comes back, in the order of the blocks.
"""

import errno
import hashlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from electra_jax.config import PrepareConfig
from electra_jax.errors import MachineError, UserError
from electra_jax.files import new_folder
from electra_jax.text.corpus import Meter, Source, sources
from electra_jax.text.rows import TOKENIZER, UNIGRAM, RowsWriter, finish_data_set
from electra_jax.text.tokenizer import Tokenizer, load_tokenizer, open_tokenizer_file, sample_lines, train_tokenizer
from electra_jax.text.workers import Block, Counts, in_order, in_own_process

_BLOCK = 2 * 2**20  # characters of text a worker gets at a time
_LOOK_AHEAD = 8 * 2**20  # characters in which a small corpus must show whether anything is held out
_MAX_WORKERS = 8  # of the default: each takes about 120 MB, and all together shall stay under 1.5 GB
_SAMPLE_READS = 40  # to take a sample, at most this many times its size is read, the same from every source
_SMALL_SAMPLE = 1_000_000  # characters; training on less is over before another process has started


@dataclass(frozen=True)
class PrepareReport:
    """What was made, as the command prints it."""

    out: Path
    corpus: tuple[str, ...]
    packing: str
    length: int
    tokenizer: str
    vocab_size: int
    train: Counts
    valid: Counts
    skipped: dict[str, int]
    training_seconds: float  # of the tokenizer, the sampling included; 0 where one was given
    seconds: float  # of everything after that
    workers: int

    @property
    def fill(self) -> float:
        """The share of the rows that is not padding."""
        return self._sum("tokens") / max(1, self.length * self._sum("rows"))

    @property
    def fragmentation(self) -> float:
        """Tokens per word, [CLS] and [SEP] not counted."""
        return (self._sum("content_tokens") + self._sum("lost_tokens")) / max(1, self._sum("words"))

    @property
    def unknown_share(self) -> float:
        """The share of [UNK] among the tokens."""
        return self._sum("unknown_tokens") / max(1, self._sum("content_tokens"))

    @property
    def valid_share(self) -> float:
        """The held-out share of the tokens."""
        return self.valid.tokens / max(1, self._sum("tokens"))

    @property
    def megabytes_per_second(self) -> float:
        """Text encoded, packed and written, in MB a second."""
        return self._sum("bytes") / 1e6 / max(1e-9, self.seconds)

    def _sum(self, name: str) -> int:
        return int(getattr(self.train, name) + getattr(self.valid, name))


def report_table(report: PrepareReport) -> Any:
    """The report as a rich Table."""
    from rich.table import Table

    table = Table(title=str(report.out), show_header=True)
    for name in ("", "training", "held out"):
        table.add_column(name, justify="left" if not name else "right")
    for label, name in (
        ("documents", "documents"),
        ("rows", "rows"),
        ("tokens, without padding", "tokens"),
        ("words", "words"),
        ("text, bytes", "bytes"),
    ):
        table.add_row(label, *(f"{getattr(split, name):,}" for split in (report.train, report.valid)))
    table.add_section()
    lines = [
        ("packing", f"{report.packing}, rows of {report.length}"),
        ("tokenizer", f"{report.tokenizer}, {report.vocab_size:,} pieces"),
        ("fill", f"{report.fill:.1%}"),
        ("fragmentation", f"{report.fragmentation:.2f} tokens a word"),
        ("unknown tokens", f"{report.unknown_share:.3%}"),
        ("held out", f"{report.valid_share:.2%} of the tokens"),
        ("speed", f"{report.megabytes_per_second:.1f} MB/s in {report.workers} processes"),
    ]
    if lost := report.train.lost_tokens + report.valid.lost_tokens:
        lines.append(("cut off by packing", f"{lost:,} tokens"))
    lines += [(f"skipped: {reason}", f"{count:,}") for reason, count in report.skipped.items()]
    for label, value in lines:
        table.add_row(label, value, "")
    return table


def prepare(config: PrepareConfig, progress: bool = False) -> PrepareReport:
    """Makes the data set `config.out`: complete, or not there at all.

    Raises UserError for what is wrong with the corpus, the tokenizer or the settings, MachineError where the
    disk is full or a worker process died. SIGTERM ends it as Ctrl-C does, with nothing left behind.
    """
    try:
        with _sigterm_as_exit(), new_folder(config.out) as folder, _Progress(progress) as shown:
            return _Preparation(config, folder, shown).run()
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise MachineError(
                f"no space left for {config.out}: free some or name a folder on another disk; nothing was kept"
            ) from None
        raise MachineError(f"{config.out} cannot be written: {error.strerror or error}") from None


class _Preparation:
    def __init__(self, config: PrepareConfig, folder: Path, progress: "_Progress") -> None:
        self.config, self.folder, self.progress = config, folder, progress
        self.sources = [sources(spec, config) for spec in config.corpus]
        self.skipped: Counter[str] = Counter()

    def run(self) -> PrepareReport:
        config = self.config
        began = time.monotonic()
        tokenizer = self.make_tokenizer()
        trained = time.monotonic()
        counts = {"train": Counts(), "valid": Counts()}
        unigram = np.zeros(tokenizer.vocab_size, np.int64)
        workers = config.workers or min(_cores(), _MAX_WORKERS)
        meter = self.progress.start("encoding", _sizes(self.sources))
        blocks = self.blocks(self.documents(meter))
        with (
            # Closed at once where an error or a signal strikes, so that no worker outlives the folder.
            closing(in_order(blocks, self.folder / TOKENIZER, config, workers)) as made,
            RowsWriter(self.folder, "train", config.length, tokenizer.vocab_size) as train,
            RowsWriter(self.folder, "valid", config.length, tokenizer.vocab_size) as valid,
        ):
            for packed in made:
                (train if packed.split == "train" else valid).add(packed.rows)
                counts[packed.split].add(packed.counts)
                if packed.split == "train":
                    unigram += packed.unigram
        for split in counts if config.valid_share else ("train",):
            if not counts[split].rows:
                raise UserError(f"the {split} documents encode to no token at all: add documents with words in them")
        np.save(self.folder / UNIGRAM, unigram, allow_pickle=False)
        report = PrepareReport(
            out=config.out,
            corpus=config.corpus,
            packing=config.packing,
            length=config.length,
            tokenizer=tokenizer.settings["kind"],
            vocab_size=tokenizer.vocab_size,
            train=counts["train"],
            valid=counts["valid"],
            skipped=dict(sorted(self.skipped.items())),
            training_seconds=0.0 if config.tokenizer_file else trained - began,
            seconds=time.monotonic() - trained,
            workers=workers,
        )
        finish_data_set(self.folder, self.meta(tokenizer, report), [*train.files, *valid.files])
        return report

    def meta(self, tokenizer: Tokenizer, report: PrepareReport) -> dict[str, Any]:
        config = self.config
        return {
            "length": config.length,
            "packing": config.packing,
            "tokenizer": {**tokenizer.settings, "fingerprint": tokenizer.fingerprint},
            "corpus": list(config.corpus),
            "seed": config.seed,
            "valid_share": config.valid_share,
            "counts": {"train": asdict(report.train), "valid": asdict(report.valid)},
            "fill": report.fill,
            "fragmentation": report.fragmentation,
            "skipped": report.skipped,
        }

    def make_tokenizer(self) -> Tokenizer:
        folder = self.folder / TOKENIZER
        if self.config.tokenizer_file is not None:
            open_tokenizer_file(self.config.tokenizer_file.expanduser(), self.config).save(folder)
            return load_tokenizer(folder)
        size = self.config.sample_mb * 1_000_000
        meter = self.progress.start("sampling", _sizes(self.sources))
        most = size * _SAMPLE_READS // max(1, sum(map(len, self.sources)))
        sample = sample_lines(self.documents(meter, most), size)
        self.progress.start(f"training {self.config.tokenizer}", None)
        if sum(map(len, sample)) < _SMALL_SAMPLE:
            train_tokenizer(sample, self.config).save(folder)
        else:
            file = self.folder / "sample.txt"
            with open(file, "w", encoding="utf-8", newline="\n") as lines:
                lines.writelines(line + "\n" for line in sample)
            del sample
            in_own_process(_train_from_file, file, self.config, folder)
            file.unlink()
        return load_tokenizer(folder)

    def documents(self, meter: Meter, most: int | None = None) -> Iterator[str]:
        """The documents of every source; with `most`, about that many characters of each, and none counted."""
        skipped = self.skipped if most is None else Counter[str]()
        for spec, group in zip(self.config.corpus, self.sources, strict=True):
            found = False
            for source in group:
                size = 0
                for document in source.read(skipped, meter):
                    found = True
                    yield document
                    self.progress.update()
                    size += len(document)
                    if most is not None and size > most:
                        break
            if not found:
                raise UserError(f"{spec} holds no text: name a corpus with at least one document")

    def blocks(self, documents: Iterator[str]) -> Iterator[Block]:
        """Documents in blocks of one split each; a document's text alone decides where it belongs."""
        held: dict[str, list[str]] = {"train": [], "valid": []}
        sizes = {"train": 0, "valid": 0}
        ahead = list(_up_to(documents, _LOOK_AHEAD))
        limit = self.held_out_below(ahead)
        number = 0
        any_valid = False
        for document in chain(ahead, documents):
            split = "valid" if _checksum(document) < limit else "train"
            any_valid = any_valid or split == "valid"
            held[split].append(document)
            sizes[split] += len(document)
            if sizes[split] >= _BLOCK:
                yield Block(number, split, held[split])
                number += 1
                held[split], sizes[split] = [], 0
        for split in held:
            if held[split]:
                yield Block(number, split, held[split])
                number += 1
        if self.config.valid_share and not any_valid:
            raise UserError(
                f"no document fell into the held-out share of {self.config.valid_share:g}: raise valid_share, or set "
                "it to 0"
            )

    def held_out_below(self, ahead: list[str]) -> int:
        """The checksum below which a document is held out: at least one and not all of a small corpus."""
        limit = int(self.config.valid_share * 2**64)
        if not limit or sum(map(len, ahead)) >= _LOOK_AHEAD:
            return limit
        checksums = sorted({_checksum(document) for document in ahead})
        if len(checksums) == 1:
            raise UserError(
                "the corpus is a single document, of which none can be held out: add documents, or set valid_share to 0"
            )
        return min(max(limit, checksums[0] + 1), checksums[-1])


def _train_from_file(file: Path, config: PrepareConfig, folder: Path) -> None:
    with open(file, encoding="utf-8", newline="\n") as lines:
        train_tokenizer((line.rstrip("\n") for line in lines), config).save(folder)


def _up_to(documents: Iterator[str], size: int) -> Iterator[str]:
    for document in documents:
        yield document
        size -= len(document)
        if size <= 0:
            return


def _checksum(document: str) -> int:
    return int.from_bytes(hashlib.blake2b(document.encode(), digest_size=8).digest())


def _sizes(groups: list[list[Source]]) -> int | None:
    sizes = [source.size for group in groups for source in group]
    return None if None in sizes else sum(size for size in sizes if size is not None)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def _sigterm_as_exit() -> Iterator[None]:
    """Turns SIGTERM into SystemExit(143), so that everything on the way is cleaned up."""

    def leave(number: int, frame: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break the cleaning up
        raise SystemExit(128 + number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, leave)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


class _Progress:
    """One line in the terminal: the stage, how much is read, and how long it will take."""

    def __init__(self, shown: bool) -> None:
        self._shown = shown
        self._stack = ExitStack()
        self._meter = Meter()
        self._next = 0.0
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "_Progress":
        if self._shown:
            from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
            self._bar = self._stack.enter_context(Progress(*columns, transient=True))
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def start(self, stage: str, total: int | None) -> Meter:
        """Begins a stage over `total` bytes on disk; the meter is for who reads them."""
        self._meter = Meter()
        if self._bar is not None:
            if self._task is not None:
                self._bar.remove_task(self._task)
            self._task = self._bar.add_task(stage, total=total)
        return self._meter

    def update(self) -> None:
        if self._bar is not None and time.monotonic() > self._next:
            self._next = time.monotonic() + 0.2
            self._bar.update(self._task, completed=self._meter.position())
