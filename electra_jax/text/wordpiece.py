"""WordPiece as BERT has it."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import Any

from electra_jax.config import PrepareConfig
from electra_jax.errors import UserError
from electra_jax.text.tokenizer import (
    SPECIAL_PIECES,
    Encoding,
    Tokenizer,
    cut_lines,
    fingerprint_of,
    save_files,
    settings_of,
    special_ids,
    strips_accents,
)

VOCABULARY = "vocab.txt"
_CONTINUES = "##"
_MAX_ALPHABET = 1000  # single characters that a vocabulary trained here knows, as BERT's does
_BATCH = 10_000  # words at once: what `tokenizers` returns takes a hundred bytes a token and more
_PARTS = re.compile(r"[A-Za-z0-9]+|[^A-Za-z0-9 ]")
_MAX_WORDS = 2**19  # words remembered before the memory starts anew; about 100 MB


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
        self._ids = ids
        self._known: dict[str, list[int]] = {}
        self._known_parts: dict[str, list[int]] = {}

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
        # BERT cuts at white space before all else, so a word has the same pieces wherever it stands, and to
        # remember them is several times faster than to work them out again.
        words = [text.split(" ") for text in texts]
        self._learn(set().union(*words).difference(self._known))
        known = self._known
        ids = [list(chain.from_iterable(map(known.__getitem__, line))) for line in words]
        if len(known) + len(self._known_parts) > _MAX_WORDS:
            known.clear()
            self._known_parts.clear()
        return ids

    def _learn(self, words: set[str]) -> None:
        plain = [word for word in words if word.isascii() and word.isprintable()]
        # What BERT's rules come to in ASCII: letters and digits in runs, any other character for itself.
        parts = [_PARTS.findall(word.lower() if self._casing[0] else word) for word in plain]
        known = self._known_parts
        missing = set().union(*parts).difference(known)
        # Longest match first: a part that is a piece is only that piece.
        known.update((part, [self._ids[part]]) for part in missing if part in self._ids)
        known.update(self._worked_out([part for part in missing if part not in self._ids]))
        for word, found in zip(plain, parts, strict=True):
            self._known[word] = list(chain.from_iterable(map(known.__getitem__, found)))
        self._known.update(self._worked_out(list(words.difference(plain))))

    def _worked_out(self, words: list[str]) -> Iterator[tuple[str, list[int]]]:
        for start in range(0, len(words), _BATCH):
            some = words[start : start + _BATCH]
            found = self._tokenizer.encode_batch_fast(some, add_special_tokens=False)
            yield from ((word, encoding.ids) for word, encoding in zip(some, found, strict=True))

    def encode(self, text: str) -> Encoding:
        found = self._tokenizer.encode(text, add_special_tokens=False)
        return Encoding(found.ids, found.offsets)

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
            f"{len(vocabulary):,}, so lower --vocab-size to that or add text"
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
