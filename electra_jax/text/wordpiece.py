"""WordPiece as BERT has it."""

from collections import Counter
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Any

from electra_jax.config import PrepareConfig
from electra_jax.errors import UserError
from electra_jax.text.tokenizer import (
    SPECIAL_PIECES,
    Encoding,
    Tokenizer,
    WordMemory,
    cut_lines,
    fingerprint_of,
    save_files,
    settings_of,
    special_ids,
    strips_accents,
    word_spans,
)

VOCABULARY = "vocab.txt"
_CONTINUES = "##"
_MAX_ALPHABET = 1000  # single characters that a vocabulary trained here knows, as BERT's does
_BATCH = 2000  # texts at once: what `tokenizers` returns takes a hundred bytes a token


class WordPieceTokenizer:
    """A vocabulary, one piece a line, with BERT's normalisation. `where` names it in errors.

    Raises UserError where special tokens are missing or pieces are there twice.
    """

    def __init__(self, vocabulary: list[str], lower_case: bool, strip_accents: bool, where: str) -> None:
        ids = {piece: i for i, piece in enumerate(vocabulary)}
        self.special = special_ids(ids.get, where)
        if "[UNK]" not in ids:
            raise UserError(f"the vocabulary {where} has no [UNK]: take one made for BERT or ELECTRA")
        if len(ids) != len(vocabulary):
            twice = next(piece for piece, count in Counter(vocabulary).items() if count > 1)
            raise UserError(f"the vocabulary {where} has the piece {twice!r} more than once: mend the file")
        self.vocab_size = len(vocabulary)
        self.unk = ids["[UNK]"]
        self._pieces = vocabulary
        self._casing = (lower_case, strip_accents)
        library = _library()
        self._tokenizer = _untrained(lower_case, strip_accents, ids)
        self._tokenizer.decoder = library.decoders.WordPiece(prefix=_CONTINUES, cleanup=False)
        # Nothing is registered as a special token, so [MASK] in a text is three ordinary pieces.
        self._memory = WordMemory(self._encode_texts)

    def _encode_texts(self, texts: list[str]) -> list[list[int]]:
        found: list[list[int]] = []
        for start in range(0, len(texts), _BATCH):
            batch = self._tokenizer.encode_batch_fast(texts[start : start + _BATCH], add_special_tokens=False)
            found += [encoding.ids for encoding in batch]
        return found

    @cached_property
    def settings(self) -> dict[str, Any]:
        return settings_of("wordpiece", self._content, self.vocab_size, self.special, self.unk, *self._casing)

    @property
    def _content(self) -> bytes:
        return ("\n".join(self._pieces) + "\n").encode()

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint_of(self.settings)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return self._memory.encode_batch(texts)

    def encode(self, text: str) -> Encoding:
        ids: list[int] = []
        offsets: list[tuple[int, int]] = []
        for start, word in word_spans(text):
            found = self._tokenizer.encode(word, add_special_tokens=False)
            ids += found.ids
            offsets += [(start + begin, start + end) for begin, end in found.offsets]
        return Encoding(ids, offsets)

    def decode(self, ids: Iterable[int]) -> str:
        silent = {self.special.pad, self.special.cls, self.special.sep}
        return str(self._tokenizer.decode([int(i) for i in ids if i not in silent], skip_special_tokens=False))

    def piece(self, token: int) -> str:
        return self._pieces[token]

    def starts_word(self, token: int) -> bool:
        return not self._pieces[token].startswith(_CONTINUES)

    def save(self, folder: Path) -> None:
        save_files(folder, VOCABULARY, self._content, self.settings)


def train(texts: Iterable[str], config: PrepareConfig) -> Tokenizer:
    """Trains exactly `config.vocab_size` pieces; the same for the same texts and settings.

    Raises UserError where the texts are too small for the vocabulary.
    """
    library = _library()
    lower, strip = config.lower_case, strips_accents(config)
    tokenizer = _untrained(lower, strip, {})
    lines = list(cut_lines(texts, 2**16))
    # The trainer numbers the inner characters in whatever order its hash table has, and breaks ties between
    # merges by those numbers: two runs differ. So the alphabet is settled here, and given to it in order.
    alphabet, unknown = _alphabet(lines, tokenizer, min(_MAX_ALPHABET, config.vocab_size // 4))
    inner = [_CONTINUES + c for c in alphabet if len(tokenizer.pre_tokenizer.pre_tokenize_str("a" + c)) == 1]
    first = [*SPECIAL_PIECES[:1], "[UNK]", *SPECIAL_PIECES[1:], *inner]
    trainer = library.trainers.WordPieceTrainer(
        vocab_size=config.vocab_size,
        special_tokens=first,
        initial_alphabet=alphabet,
        limit_alphabet=len(alphabet),
        continuing_subword_prefix=_CONTINUES,
        show_progress=False,
    )
    tokenizer.train_from_iterator((line.translate(unknown) for line in lines), trainer)
    found = tokenizer.get_vocab(with_added_tokens=True)
    vocabulary = sorted(found, key=found.__getitem__)
    if len(vocabulary) != config.vocab_size:
        raise UserError(
            f"the corpus is too small for a vocabulary of {config.vocab_size:,} pieces: it yields "
            f"{len(vocabulary):,}, so lower vocab_size to that or add text"
        )
    return WordPieceTokenizer(vocabulary, lower, strip, "trained here")


def _alphabet(lines: Iterable[str], tokenizer: Any, size: int) -> tuple[list[str], dict[int, str]]:
    """The `size` most frequent characters after normalisation, and a table that blanks the others."""
    raw: Counter[str] = Counter()
    for line in lines:
        raw.update(line)
    normal = {character: tokenizer.normalizer.normalize_str(character).strip() for character in raw}
    counts: Counter[str] = Counter()
    for character, count in raw.items():
        for plain in normal[character]:
            counts[plain] += count
    kept = sorted(sorted(counts), key=lambda c: -counts[c])[:size]
    unknown = {ord(c): " " for c, plain in normal.items() if not set(plain) <= set(kept)}
    return sorted(kept), unknown


def _untrained(lower_case: bool, strip_accents: bool, ids: dict[str, int]) -> Any:
    library = _library()
    model = library.models.WordPiece(ids, unk_token="[UNK]", max_input_chars_per_word=100)
    tokenizer = library.Tokenizer(model)
    tokenizer.normalizer = library.normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=strip_accents, lowercase=lower_case
    )
    tokenizer.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    return tokenizer


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise UserError("WordPiece needs the package tokenizers: pip install tokenizers") from None
    return tokenizers
