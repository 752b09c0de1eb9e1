"""SentencePiece and WordPiece behind one small interface."""

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from electra_jax.config import PrepareConfig, SpecialTokens
from electra_jax.errors import MachineError, UserError
from electra_jax.files import write_file, write_json

SETTINGS = "settings.json"
SPECIAL_PIECES = ("[PAD]", "[CLS]", "[SEP]", "[MASK]")


class Encoding(NamedTuple):
    """Token ids of a text and, for each, its span of characters (start, end) in the text as it was given."""

    ids: list[int]
    offsets: list[tuple[int, int]]


@runtime_checkable
class Tokenizer(Protocol):
    """Plain text to ids and back. No method adds special tokens, and no text, `[MASK]` included, encodes to one."""

    @property
    def vocab_size(self) -> int: ...
    @property
    def special(self) -> SpecialTokens: ...
    @property
    def unk(self) -> int: ...
    @property
    def fingerprint(self) -> str:
        """SHA-256 over the files that `save` writes."""

    @property
    def settings(self) -> dict[str, Any]:
        """What `save` writes beside the vocabulary: kind, sizes, special ids, casing, accents."""

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        """The ids of each text."""

    def encode(self, text: str) -> Encoding:
        """The ids of one text with their character spans; slower than `encode_batch`."""

    def decode(self, ids: Iterable[int]) -> str:
        """Text; [PAD], [CLS] and [SEP] leave nothing behind, [MASK] is written out."""

    def piece(self, token: int) -> str:
        """The piece of the vocabulary, as it is written there."""

    def starts_word(self, token: int) -> bool:
        """Whether the piece begins a word (special tokens do)."""

    def save(self, folder: Path) -> None:
        """Writes the tokenizer into a folder, for `load_tokenizer`."""


def train_tokenizer(texts: Iterable[str], config: PrepareConfig) -> Tokenizer:
    """Trains `config.tokenizer` on lines of text; exactly `config.vocab_size` pieces, the same every time.

    Raises UserError where the text is too small for the vocabulary.
    """
    if config.tokenizer == "wordpiece":
        from electra_jax.text.wordpiece import train

        return train(texts, config)
    from electra_jax.text.sentencepiece import train as train_sentencepiece

    return train_sentencepiece(texts, config)


def open_tokenizer_file(path: Path, config: PrepareConfig) -> Tokenizer:
    """A SentencePiece model or a WordPiece vocab.txt (one piece a line), told apart by their content.

    A SentencePiece model has its casing built in; WordPiece takes it from `config`.
    Raises UserError where the file is neither, or lacks [CLS], [SEP], [MASK], or padding at id 0.
    """
    from electra_jax.text.sentencepiece import SentencePieceTokenizer
    from electra_jax.text.wordpiece import WordPieceTokenizer

    if path.is_dir() and (path / SETTINGS).is_file():
        return load_tokenizer(path)
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"the tokenizer {path} cannot be opened: {error.strerror}") from None
    try:
        if b"\0" in content[:4096]:
            raise ValueError("not text")
        lines = _lines(content)
    except ValueError:
        return SentencePieceTokenizer(content, str(path))
    if "[CLS]" not in lines and "[MASK]" not in lines and len(max(lines, default="", key=len)) > 256:
        raise UserError(f"{path} is neither a SentencePiece model nor a WordPiece vocabulary")
    return WordPieceTokenizer(lines, config.lower_case, strips_accents(config), str(path))


def load_tokenizer(folder: Path) -> Tokenizer:
    """Opens what `Tokenizer.save` wrote. Raises UserError where it is missing, MachineError where damaged."""
    from electra_jax.text.sentencepiece import MODEL, SentencePieceTokenizer
    from electra_jax.text.wordpiece import VOCABULARY, WordPieceTokenizer

    try:
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        kind = settings["kind"]
        content = (folder / (MODEL if kind == "sentencepiece" else VOCABULARY)).read_bytes()
    except FileNotFoundError as error:
        raise UserError(f"{folder} holds no tokenizer: {error.filename} is missing") from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MachineError(f"the tokenizer in {folder} cannot be read ({error}): copy or make it again") from None
    if hashlib.sha256(content).hexdigest() != settings.get("sha256"):
        raise MachineError(f"the tokenizer in {folder} is damaged: copy or make it again")
    if kind == "sentencepiece":
        return SentencePieceTokenizer(content, str(folder))
    lines = _lines(content)
    return WordPieceTokenizer(lines, settings["lower_case"], settings["strip_accents"], str(folder))


def _lines(content: bytes) -> list[str]:
    # Not splitlines(): a piece may be one of the other characters that it takes for the end of a line.
    return [line.removesuffix("\r") for line in content.decode("utf-8").removesuffix("\n").split("\n")]


def strips_accents(config: PrepareConfig) -> bool:
    """Whether accents go: as said, or with the capitals."""
    return config.lower_case if config.strip_accents is None else config.strip_accents


def settings_of(
    kind: str, content: bytes, vocab_size: int, special: SpecialTokens, unk: int, lower: bool, strip: bool
) -> dict[str, Any]:
    """What identifies a tokenizer, beside the file itself."""
    return {
        "format": 1,
        "kind": kind,
        "vocab_size": vocab_size,
        "special": special._asdict(),
        "unk": unk,
        "lower_case": lower,
        "strip_accents": strip,
        "sha256": hashlib.sha256(content).hexdigest(),
    }


def fingerprint_of(settings: dict[str, Any]) -> str:
    """SHA-256 of the settings, which hold the vocabulary's own checksum."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def save_files(folder: Path, name: str, content: bytes, settings: dict[str, Any]) -> None:
    """Writes the vocabulary and then its settings."""
    folder.mkdir(parents=True, exist_ok=True)
    write_file(folder / name, content)
    write_json(folder / SETTINGS, settings)


def special_ids(find: Callable[[str], int | None], where: str) -> SpecialTokens:
    """The ids of [PAD], [CLS], [SEP], [MASK]. Raises UserError where one is missing or padding is not 0."""
    ids = [find(piece) for piece in SPECIAL_PIECES]
    missing = [piece for piece, found in zip(SPECIAL_PIECES, ids, strict=True) if found is None]
    if missing:
        raise UserError(
            f"the tokenizer {where} has no {', '.join(missing)}: ELECTRA needs [PAD], [CLS], [SEP] and [MASK], so "
            "take a tokenizer made for BERT or ELECTRA, or train one here"
        )
    special = SpecialTokens(*(found for found in ids if found is not None))
    if special.pad != 0:
        raise UserError(f"the tokenizer {where} has padding at id {special.pad}, but a row's padding must be id 0")
    return special


def sample_lines(documents: Iterable[str], size: int) -> list[str]:
    """About `size` bytes of lines spread evenly over the documents: all where they are fewer.

    Which lines depends on their text alone: those of the smallest checksums, in the order of the documents.
    """
    held: list[tuple[int, int, str]] = []
    limit, total = 2**32, 0
    for document in documents:
        for line in document.split("\n"):
            content = line.encode()
            checksum = zlib.crc32(content)
            if checksum < limit:
                held.append((checksum, len(content), line))
                total += len(content)
        while total > 2 * size and limit > 1:
            limit //= 2
            held = [item for item in held if item[0] < limit]
            total = sum(item[1] for item in held)
    if total > size:
        limit = int(limit * size / total)
    return [line for checksum, _, line in held if checksum < limit]


def cut_lines(lines: Iterable[str], size: int) -> Iterator[str]:
    """Lines of at most `size` bytes in UTF-8, cut at spaces where there are any."""
    for line in lines:
        while len(line) * 4 > size and len(line.encode()) > size:
            head = line[: size // 4]
            end = head.rfind(" ")
            yield line[: end if end > 0 else len(head)]
            line = line[end if end > 0 else len(head) :]
        if line.strip():
            yield line


# One process a core does the work: threads inside the tokenizer would fight over the same cores.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
