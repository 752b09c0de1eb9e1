"""Our tokenizers as the content of a tokenizer.json, the file of the library `tokenizers`.

Every one writes `[CLS] A [SEP]` and `[CLS] A [SEP] B [SEP]`, with token type 1 from B on.
"""

import tempfile
from pathlib import Path
from typing import Any

from electra_jax.errors import UserError
from electra_jax.text.sentencepiece import MODEL
from electra_jax.text.tokenizer import Tokenizer

PREFIX = "##"
MAX_CHARACTERS = 100  # of a word; BERT takes a longer one for unknown
_SPACE = "▁"
_UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED = 2, 3, 4, 5  # kinds of pieces in sentencepiece_model.proto
_UNIGRAM = 1


def wordpiece_json(tokenizer: Tokenizer) -> str:
    """A WordPieceTokenizer: its vocabulary and casing, and BERT's rules."""
    import tokenizers as library

    ids = {tokenizer.piece(i): i for i in range(tokenizer.vocab_size)}
    model = library.models.WordPiece(
        ids, unk_token="[UNK]", max_input_chars_per_word=MAX_CHARACTERS, continuing_subword_prefix=PREFIX
    )
    backend = library.Tokenizer(model)
    backend.normalizer = library.normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=True,
        strip_accents=tokenizer.settings["strip_accents"],
        lowercase=tokenizer.settings["lower_case"],
    )
    backend.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    backend.decoder = library.decoders.WordPiece(prefix=PREFIX)
    return _finished(backend, tokenizer, [*tokenizer.special, tokenizer.unk])


def unigram_json(tokenizer: Tokenizer) -> str:
    """A SentencePieceTokenizer: its pieces with their scores, its rules for characters and for spaces.

    Raises UserError where the model is no unigram model, or has what the library cannot do as SentencePiece does.
    """
    import tokenizers as library

    with tempfile.TemporaryDirectory() as folder:
        tokenizer.save(Path(folder))
        model = Path(folder, MODEL).read_bytes()
    proto = _parsed(model)
    normalizer, trainer, pieces = proto.normalizer_spec, proto.trainer_spec, proto.pieces
    symbols = [p.piece for i, p in enumerate(pieces) if p.type == _USER_DEFINED and i not in tokenizer.special]
    for unfit, what in (
        (trainer.model_type != _UNIGRAM, "is not a unigram model"),
        (trainer.byte_fallback, "writes unknown characters as bytes"),
        (bool(symbols), f"has user-defined symbols ({', '.join(map(repr, symbols[:3]))})"),
        (any(p.type == _UNUSED for p in pieces), "has unused pieces"),
        (trainer.treat_whitespace_as_suffix, "puts spaces at the end of words"),
        (not normalizer.escape_whitespaces, f"does not write spaces as {_SPACE}"),
        (not normalizer.add_dummy_prefix, "puts no space before a text"),
        (not normalizer.remove_extra_whitespaces, "keeps repeated spaces"),
    ):
        if unfit:
            raise UserError(
                f"the tokenizer cannot be written as a tokenizer.json, for its SentencePiece model {what}: export a "
                "run whose tokenizer was trained here"
            )
    vocabulary = [(p.piece, p.score) for p in pieces]
    backend = library.Tokenizer(library.models.Unigram(vocabulary, unk_id=tokenizer.unk, byte_fallback=False))
    backend.normalizer = _normalizer(normalizer, _composes(model), library)
    # To cut at spaces first changes nothing where a space is a piece, and pieces have it in front or not at all.
    split = any(p.piece == _SPACE for p in pieces) and not any(_SPACE in p.piece[1:] for p in pieces)
    backend.pre_tokenizer = library.pre_tokenizers.Metaspace(_SPACE, prepend_scheme="first", split=split)
    backend.decoder = library.decoders.Metaspace(_SPACE, prepend_scheme="first")
    # All of them: the library's model would find a control symbol in a text as if it were a piece.
    control = [i for i, p in enumerate(pieces) if p.type in (_UNKNOWN, _CONTROL)]
    return _finished(backend, tokenizer, [*tokenizer.special, *control])


def _normalizer(spec: Any, composes: bool, library: Any) -> Any:
    steps: list[Any] = []
    if spec.precompiled_charsmap:
        if composes:
            # Where rules overlap, SentencePiece follows the longest and the library the shortest. In composed text
            # next to every rule has one character, and they agree.
            steps.append(library.normalizers.NFC())
        steps.append(library.normalizers.Precompiled(bytes(spec.precompiled_charsmap)))
    # A space in front stays: after a special token it says that a word begins; before all else it stands for the
    # one that SentencePiece puts there.
    steps += [
        library.normalizers.Replace(library.Regex(" {2,}"), " "),
        library.normalizers.Replace(library.Regex(rf"[ {_SPACE}]+\z"), ""),
    ]
    return library.normalizers.Sequence(steps)


def _composes(model: bytes) -> bool:
    """Whether a model makes one syllable of its three letters, as NFC and NFKC do."""
    import sentencepiece

    normalizer = sentencepiece.SentencePieceNormalizer(model_proto=model)
    return bool(normalizer.normalize("\u1112\u1161\u11ab") == normalizer.normalize("\ud55c"))


def _parsed(model: bytes) -> Any:
    try:
        from sentencepiece import sentencepiece_model_pb2
    except ImportError:
        raise UserError("to write a SentencePiece tokenizer needs the package protobuf: pip install protobuf") from None
    found: Any = sentencepiece_model_pb2
    return found.ModelProto.FromString(model)


def _finished(backend: Any, tokenizer: Tokenizer, special: list[int]) -> str:
    import tokenizers as library

    names = [tokenizer.piece(i) for i in sorted(set(special))]
    backend.add_special_tokens([library.AddedToken(name, normalized=False, special=True) for name in names])
    cls, sep = tokenizer.piece(tokenizer.special.cls), tokenizer.piece(tokenizer.special.sep)
    backend.post_processor = library.processors.TemplateProcessing(
        single=f"{cls}:0 $A:0 {sep}:0",
        pair=f"{cls}:0 $A:0 {sep}:0 $B:1 {sep}:1",
        special_tokens=[(cls, tokenizer.special.cls), (sep, tokenizer.special.sep)],
    )
    return str(backend.to_str(pretty=True))
