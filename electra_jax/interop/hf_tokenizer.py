"""Tokenizers there and back between electra_jax and Hugging Face folders.

One difference stays, and is meant to: in Transformers a text that says `[MASK]`, or another special token, gets that
token; a `Tokenizer` here never reads one out of a text.

The library `tokenizers`, which opens a SentencePiece tokenizer's export, differs from SentencePiece itself
- between two ways to cut a word that are equally likely (`0 00` and `00 0`): SentencePiece sums over the line in
  float32, so what stands before decides; the library sums in float64 and always takes the first; and
- where one visible character is spelled with several code points that Unicode has no single one for (a capital with
  a zero-width joiner, a letter with two marks of which only the second composes): there the library may drop one, or
  compose what SentencePiece leaves apart.
"""

import json
from pathlib import Path
from typing import Any, NamedTuple

from electra_jax.config import PrepareConfig
from electra_jax.errors import UserError
from electra_jax.files import write_file, write_json
from electra_jax.interop.tokenizer_json import MAX_CHARACTERS, PREFIX, unigram_json, wordpiece_json
from electra_jax.text.sentencepiece import MODEL
from electra_jax.text.tokenizer import SETTINGS as OURS
from electra_jax.text.tokenizer import Tokenizer, load_tokenizer, open_tokenizer_file
from electra_jax.text.wordpiece import VOCABULARY, WordPieceTokenizer

SETTINGS = "tokenizer_config.json"
BACKEND = "tokenizer.json"
ADDED = "added_tokens.json"
# These apply BERT's rules with the casing of tokenizer_config.json; the generic ones open tokenizer.json as it is.
_BERT = ("BertTokenizer", "ElectraTokenizer", "DistilBertTokenizer")
_GENERIC = ("PreTrainedTokenizer", "TokenizersBackend")
_SPECIAL = {name: f"[{name.removesuffix('_token').upper()}]" for name in
            ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")}  # fmt: skip
# What else a folder may ask for, and the one answer that is BERT's as it is here.
_FIXED = {"tokenize_chinese_chars": True, "do_basic_tokenize": True, "do_word_tokenize": True,
          "do_subword_tokenize": True, "never_split": None, "use_fast": True}  # fmt: skip

_WHICH = "remove the file that is not the model's"


class _Casing(NamedTuple):
    lower_case: bool
    strip_accents: bool


class _WordPiece(NamedTuple):
    """What a tokenizer.json holds, as far as it is BERT's."""

    pieces: list[str]
    casing: _Casing
    added: list[tuple[str, int]]  # tokens that are found in a text before all else


def write_tokenizer(tokenizer: Tokenizer, folder: Path, max_length: int) -> None:
    """Writes what `AutoTokenizer.from_pretrained` opens, beside a config.json of model type `electra`.

    Pairs get token types 0 and 1. `max_length` counts tokens, the special ones with them.
    Raises UserError for a SentencePiece model that a tokenizer.json cannot express.
    """
    settings = tokenizer.settings
    names = {name: tokenizer.piece(getattr(tokenizer.special, name.removesuffix("_token")))
             for name in _SPECIAL if name != "unk_token"}  # fmt: skip
    wordpiece = isinstance(tokenizer, WordPieceTokenizer)
    backend = wordpiece_json(tokenizer) if wordpiece else unigram_json(tokenizer)
    folder.mkdir(parents=True, exist_ok=True)
    if wordpiece:
        write_file(folder / VOCABULARY, "\n".join(_pieces(tokenizer)) + "\n")
    else:
        tokenizer.save(folder)
    write_file(folder / BACKEND, backend)
    write_json(
        folder / SETTINGS,
        {
            # The name that both Transformers 4 and 5 know, and for ELECTRA the same class as its own.
            "tokenizer_class": "BertTokenizer" if wordpiece else "PreTrainedTokenizerFast",
            "do_lower_case": settings["lower_case"],
            "strip_accents": settings["strip_accents"],
            **({"tokenize_chinese_chars": True} if wordpiece else {}),
            "model_max_length": max_length,
            "model_input_names": ["input_ids", "token_type_ids", "attention_mask"],
            "padding_side": "right",
            "clean_up_tokenization_spaces": wordpiece,
            **names,
            "unk_token": tokenizer.piece(tokenizer.unk),
        },
    )


def read_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer of a Hugging Face ELECTRA or BERT folder, or of one that `write_tokenizer` filled.

    Read are, in this order: the SentencePiece model of an export; vocab.txt with tokenizer_config.json; tokenizer.json.
    Raises UserError where there is none, a file is damaged, two disagree, or it asks for what no tokenizer here does.
    """
    try:
        if (folder / MODEL).is_file():
            return _read_sentencepiece(folder)
        return _read_wordpiece(folder)
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        reason = f"{type(error).__name__}: {error}".replace("\n", " ")
        raise UserError(f"the tokenizer in {folder} is damaged ({reason:.100}): fetch or export it again") from None


def _read_sentencepiece(folder: Path) -> Tokenizer:
    tokenizer = load_tokenizer(folder)
    backend = _read_json(folder / BACKEND)
    if backend is not None and [p for p, _ in backend["model"]["vocab"]] != _pieces(tokenizer):
        raise UserError(f"{BACKEND} and {MODEL} in {folder} have different vocabularies: {_WHICH}")
    return tokenizer


def _read_wordpiece(folder: Path) -> Tokenizer:
    settings, backend = _read_json(folder / SETTINGS), _read_json(folder / BACKEND)
    file = folder / VOCABULARY
    if backend is None and not file.is_file():
        raise UserError(f"{folder} holds no tokenizer: it needs {BACKEND}, or {VOCABULARY} with {SETTINGS}")
    if backend is None and settings is None:
        raise UserError(
            f"{folder} holds {VOCABULARY} alone, which does not say whether capitals and accents count: add {SETTINGS}"
        )
    from_json = None if backend is None else _wordpiece(folder, backend)
    casing = _casing(folder, settings, from_json)
    config = PrepareConfig(out=folder, lower_case=casing.lower_case, strip_accents=casing.strip_accents)
    if file.is_file():
        tokenizer = open_tokenizer_file(file, config)
        if from_json is not None and from_json.pieces != _pieces(tokenizer):
            raise UserError(f"{BACKEND} and {VOCABULARY} in {folder} have different vocabularies: {_WHICH}")
    else:
        assert from_json is not None
        tokenizer = WordPieceTokenizer(from_json.pieces, *casing, str(folder / BACKEND))
    ids = {piece: i for i, piece in enumerate(_pieces(tokenizer))}
    for token, i in [*_added(folder, settings), *(from_json.added if from_json else [])]:
        if ids.get(token) != i:
            raise _refusal(folder, f"adds the token {token!r:.60} to its vocabulary")
    return tokenizer


def _wordpiece(folder: Path, backend: dict[str, Any]) -> _WordPiece:
    """A tokenizer.json's vocabulary and casing. Raises UserError where its rules are not BERT's."""
    model, normalizer, pre_tokenizer = backend["model"], backend["normalizer"], backend["pre_tokenizer"]
    kind = model.get("type", "WordPiece")  # old files leave it out
    if kind == "Unigram":
        raise UserError(
            f"{folder} holds a SentencePiece tokenizer without its {MODEL} and {OURS}: copy both from where it was "
            "exported"
        )
    if kind != "WordPiece" or "continuing_subword_prefix" not in model:
        raise _refusal(folder, f"is a {kind} model, not WordPiece")
    for name, value in (
        ("continuing_subword_prefix", PREFIX),
        ("max_input_chars_per_word", MAX_CHARACTERS),
        ("unk_token", "[UNK]"),
    ):
        if model[name] != value:
            raise _refusal(folder, f"has {name} {model[name]!r:.60} instead of {value!r}")
    for name, part, wanted in (
        ("normalizer", normalizer, "BertNormalizer"),
        ("pre-tokenizer", pre_tokenizer, "BertPreTokenizer"),
    ):
        if part is None or part["type"] != wanted:
            found = None if part is None else part["type"]
            raise _refusal(folder, f"has the {name} {found} instead of {wanted}")
    for name in ("clean_text", "handle_chinese_chars"):
        if normalizer[name] is not True:
            raise _refusal(folder, f"has {name} switched off")
    ids = model["vocab"]
    pieces = sorted(ids, key=ids.__getitem__)
    if [ids[piece] for piece in pieces] != list(range(len(pieces))):
        raise _refusal(folder, "has ids that are not 0, 1, 2 and so on")
    added = [_special(folder, token, token["id"]) for token in backend["added_tokens"]]
    lower, strip = normalizer["lowercase"], normalizer["strip_accents"]
    return _WordPiece(pieces, _Casing(_bool("lowercase", lower), _bool("strip_accents", strip, lower)), added)


def _casing(folder: Path, settings: dict[str, Any] | None, from_json: _WordPiece | None) -> _Casing:
    """What tokenizer_config.json says, and where it is silent, what its class does.

    Raises UserError where tokenizer.json says otherwise, or where it asks for what is not BERT's.
    """
    if settings is None:
        assert from_json is not None
        return from_json.casing
    kind = str(settings.get("tokenizer_class") or _BERT[0])
    generic = kind.removesuffix("Fast") in _GENERIC
    if not generic and kind.removesuffix("Fast") not in _BERT:
        raise _refusal(folder, f"is a {kind:.60}")
    if generic and from_json is None:
        raise UserError(f"{folder} has a {kind} but no {BACKEND}: fetch or export it again")
    for name, wanted in _FIXED.items():
        if settings.get(name, wanted) not in (wanted, [] if wanted is None else wanted):
            raise _refusal(folder, f"has {name} {settings[name]!r:.60}")
    for name, piece in _SPECIAL.items():
        found = settings.get(name) or piece
        found = found["content"] if isinstance(found, dict) else found
        if found != piece:
            raise _refusal(folder, f"has {name} {found!r:.60} instead of {piece}")
    said = from_json.casing if generic and from_json is not None else _Casing(True, True)
    lower = _bool("do_lower_case", settings.get("do_lower_case"), said.lower_case)
    silent = said.strip_accents if generic and "strip_accents" not in settings else lower
    casing = _Casing(lower, _bool("strip_accents", settings.get("strip_accents"), silent))
    if from_json is not None and from_json.casing != casing:
        raise UserError(
            f"{SETTINGS} in {folder} means {_say(casing)}, but {BACKEND} {_say(from_json.casing)}: "
            "correct the one that is not the model's"
        )
    return casing


def _added(folder: Path, settings: dict[str, Any] | None) -> list[tuple[str, int]]:
    """Tokens beside the vocabulary, as Transformers 4 keeps them."""
    decoder = (settings or {}).get("added_tokens_decoder") or {}
    return [
        *(_read_json(folder / ADDED) or {}).items(),
        *(_special(folder, token, int(i)) for i, token in decoder.items()),
    ]


def _special(folder: Path, token: dict[str, Any], i: int) -> tuple[str, int]:
    if not token["special"]:
        raise _refusal(folder, f"reads {token['content']!r:.60} out of a text as one token")
    return token["content"], i


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise UserError(f"{path} cannot be opened: {error.strerror}") from None
    except (ValueError, RecursionError):
        raise UserError(f"{path} is not one whole JSON object: fetch or export it again") from None
    if not isinstance(found, dict):
        raise UserError(f"{path} is not one whole JSON object: fetch or export it again")
    return found


def _bool(name: str, value: object, default: bool | None = None) -> bool:
    value = default if value is None else value
    if not isinstance(value, bool):
        raise TypeError(f"{name} is {value!r}, neither true nor false")
    return value


def _say(casing: _Casing) -> str:
    lower, strip = casing
    return f"{'lower case' if lower else 'capitals'} and {'no accents' if strip else 'accents'}"


def _pieces(tokenizer: Tokenizer) -> list[str]:
    return [tokenizer.piece(i) for i in range(tokenizer.vocab_size)]


def _refusal(folder: Path, what: str) -> UserError:
    return UserError(f"the tokenizer in {folder} {what}, which no tokenizer here does: take one with BERT's own rules")
