"""SentencePiece: the unigram model, with BERT's special tokens."""

import io
import os
import re
import sys
import tempfile
import unicodedata
from collections.abc import Iterable
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from electra_jax.config import PrepareConfig
from electra_jax.errors import UserError
from electra_jax.text.tokenizer import (
    Encoding,
    Tokenizer,
    cut_lines,
    fingerprint_of,
    save_files,
    settings_of,
    special_ids,
    strips_accents,
)

MODEL = "sentencepiece.model"
_SPACE = "▁"
_MAX_LINE = 4096  # bytes; SentencePiece leaves out longer lines
_RULES = "rules.tsv"
_PATH = 512  # bytes
_THREADS = 16  # fixed, for the order in which counts are summed must not depend on the machine


class SentencePieceTokenizer:
    """A SentencePiece model. `where` names it in errors.

    Raises UserError where the bytes are no such model, or special tokens are missing.
    """

    def __init__(self, model: bytes, where: str) -> None:
        processor = _library().SentencePieceProcessor()
        try:
            processor.LoadFromSerializedProto(model)
        except RuntimeError:
            raise UserError(f"{where} is neither a SentencePiece model nor a WordPiece vocabulary") from None
        self._model, self._processor = model, processor
        self.vocab_size: int = processor.vocab_size()
        self.unk: int = processor.unk_id()
        names = {"[PAD]": ("[PAD]", "<pad>"), "[CLS]": ("[CLS]",), "[SEP]": ("[SEP]",), "[MASK]": ("[MASK]", "<mask>")}
        self.special = special_ids(lambda piece: self._find(names[piece]), where)
        self._pieces: list[str] = [processor.id_to_piece(i) for i in range(self.vocab_size)]
        # A model may know [MASK] as a symbol of the text ("user-defined"): then plain text could spell it.
        self._spelled = {i for i in self.special if not processor.is_control(i)}

    def _find(self, names: tuple[str, ...]) -> int | None:
        for name in names:
            found = self._processor.piece_to_id(name)
            if self._processor.id_to_piece(found) == name:
                return int(found)
        return None

    @cached_property
    def settings(self) -> dict[str, Any]:
        lower = self._processor.normalize("A").strip(_SPACE) == "a"
        strip = self._processor.normalize("é").strip(_SPACE) == "e"
        return settings_of("sentencepiece", self._model, self.vocab_size, self.special, self.unk, lower, strip)

    @cached_property
    def fingerprint(self) -> str:
        return fingerprint_of(self.settings)

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        found: list[list[int]] = self._processor.encode(texts, num_threads=1)
        if self._spelled:
            found = [[self.unk if i in self._spelled else i for i in ids] for ids in found]
        return found

    def encode(self, text: str) -> Encoding:
        found = self._processor.encode(text, return_type="offset_mapping")
        offsets = []
        for begin, end in found["offsets"]:
            while begin < end and text[begin].isspace():  # a piece takes the space before it along
                begin += 1
            offsets.append((begin, end))
        return Encoding([self.unk if i in self._spelled else i for i in found["ids"]], offsets)

    def decode(self, ids: Iterable[int]) -> str:
        runs: list[list[int]] = [[]]
        for i in ids:
            if i == self.special.mask:
                runs.append([])
            elif i not in self.special:
                runs[-1].append(int(i))
        return " [MASK] ".join(self._processor.decode(run) if run else "" for run in runs).strip()

    def piece(self, token: int) -> str:
        return self._pieces[token]

    def starts_word(self, token: int) -> bool:
        return self._pieces[token].startswith(_SPACE) or token in self.special

    def save(self, folder: Path) -> None:
        save_files(folder, MODEL, self._model, self.settings)


def train(texts: Iterable[str], config: PrepareConfig) -> Tokenizer:
    """Trains a unigram model of exactly `config.vocab_size` pieces; the same for the same texts and settings.

    Raises UserError where the texts are too small for the vocabulary, or hold more characters than it.
    """
    library = _library()
    found = io.BytesIO()
    with tempfile.TemporaryDirectory() as folder:
        settings: dict[str, Any] = {"normalization_rule_name": "nmt_nfkc_cf" if config.lower_case else "nmt_nfkc"}
        if strips_accents(config):
            # The model keeps the path it was given. So that one training has one result, it always has the same
            # length (a path may repeat its slashes), and is blanked below.
            table = folder + "/" * (_PATH - len(os.fsencode(folder)) - len(_RULES)) + _RULES
            Path(table).write_text(_stripping_rules(settings["normalization_rule_name"]), encoding="utf-8")
            settings = {"normalization_rule_tsv": table}
        try:
            library.SentencePieceTrainer.train(
                sentence_iterator=cut_lines(texts, _MAX_LINE),
                model_writer=found,
                vocab_size=config.vocab_size,
                max_sentence_length=_MAX_LINE,
                pad_id=0,
                unk_id=1,
                bos_id=-1,
                eos_id=-1,
                pad_piece="[PAD]",
                unk_piece="[UNK]",
                control_symbols=["[CLS]", "[SEP]", "[MASK]"],
                num_threads=_THREADS,
                minloglevel=2,
                **settings,
            )
        except (RuntimeError, ValueError) as error:
            raise _too_small(str(error), config.vocab_size) from None
    path = os.fsencode(str(settings.get("normalization_rule_tsv", _RULES)))
    return SentencePieceTokenizer(found.getvalue().replace(path, _RULES.rjust(len(path)).encode()), "trained here")


def _too_small(reason: str, size: int) -> UserError:
    if most := re.search(r"set it to a value <= (\d+)", reason):
        return UserError(
            f"the corpus is too small for a vocabulary of {size:,} pieces: it yields {int(most[1]):,}, so lower "
            "--vocab-size to that or add text"
        )
    if least := re.search(r"smaller than required_chars\D+\d+ vs (\d+)", reason):
        return UserError(
            f"a vocabulary of {size:,} pieces is too small for the corpus, whose characters alone are "
            f"{int(least[1]):,}: raise --vocab-size to twice that or more"
        )
    return UserError(
        f"no tokenizer of {size:,} pieces can be trained on so little text ({reason.splitlines()[-1].strip()}): "
        "add text, lower --vocab-size, or name a --tokenizer-file"
    )


@cache
def _stripping_rules(base: str) -> str:
    """SentencePiece's own normalisation `base`, and then no accents, as rules from code points to code points."""
    normalizer = _library().SentencePieceNormalizer(
        rule_name=base, add_dummy_prefix=False, remove_extra_whitespaces=False, escape_whitespaces=False
    )
    rules: dict[str, str] = {}
    for code in range(1, sys.maxunicode + 1):
        character = chr(code)
        kind = unicodedata.category(character)
        if kind in ("Cs", "Cn", "Co"):
            continue
        plain = "" if kind == "Mn" else _stripped(normalizer.normalize(character))
        if plain != character:
            rules[character] = plain
        # What is composed without an accent (Hangul, some Indic vowels) stays one character.
        parts = unicodedata.normalize("NFD", character)
        if len(parts) > 1 and not any(unicodedata.category(part) == "Mn" for part in parts):
            rules[parts] = plain
    return "".join(f"{_codes(source)}\t{_codes(target)}\n" for source, target in rules.items() if source != target)


def _stripped(text: str) -> str:
    parts = unicodedata.normalize("NFD", text)
    return unicodedata.normalize("NFC", "".join(c for c in parts if unicodedata.category(c) != "Mn"))


def _codes(text: str) -> str:
    return " ".join(f"{ord(character):X}" for character in text)


def _library() -> Any:
    try:
        import sentencepiece
    except ImportError:
        raise UserError("SentencePiece needs the package sentencepiece: pip install sentencepiece") from None
    return sentencepiece
