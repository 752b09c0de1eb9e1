import json
import string
import subprocess
import sys
import unicodedata
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from electra_jax.config import SpecialTokens
from electra_jax.errors import MachineError, UserError
from electra_jax.text.tokenizer import (
    SETTINGS,
    Tokenizer,
    cut_lines,
    load_tokenizer,
    open_tokenizer_file,
    sample_lines,
    train_tokenizer,
)
from tests.text.conftest import DOCUMENTS, trained
from tests.text.conftest import settings as configured

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
KINDS = ["sentencepiece", "wordpiece"]
# Fixtures are the same for every example, and never change.
shared_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def test_special_tokens_and_size(tokenizer: Tokenizer) -> None:
    assert tokenizer.special == SpecialTokens(pad=0, cls=2, sep=3, mask=4)
    assert tokenizer.unk == 1
    assert tokenizer.vocab_size == 600
    assert [tokenizer.piece(i) for i in range(5)] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert len({tokenizer.piece(i) for i in range(600)}) == 600


@shared_fixture
@given(st.lists(TEXT, max_size=5))
def test_batches_and_single_texts_agree(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert tokenizer.encode_batch(texts) == [tokenizer.encode(text).ids for text in texts]
    assert tokenizer.encode_batch(texts) == tokenizer.encode_batch(texts)


@shared_fixture
@given(
    st.lists(st.sampled_from([*"aBé \n[]", "[MASK]", "[CLS]", "[SEP]", "[PAD]", "[mask]", "<pad>", "▁"]), max_size=20)
)
def test_no_text_encodes_to_a_special_token(tokenizer: Tokenizer, parts: list[str]) -> None:
    assert not set(tokenizer.encode_batch(["".join(parts)])[0]) & set(tokenizer.special)


@shared_fixture
@given(TEXT)
def test_offsets_are_ordered_spans_of_the_text(tokenizer: Tokenizer, text: str) -> None:
    ids, offsets = tokenizer.encode(text)
    assert len(ids) == len(offsets)
    for start, end in offsets:
        assert 0 <= start <= end <= len(text)
    assert offsets == sorted(offsets, key=lambda span: span[0])


@pytest.mark.parametrize(
    "text",
    [
        "Café au lait costs 3€",
        "naïve Ünïcode",
        "e\u0301te\u0301 déjà",
        "日本語 text 中文",
        "😀 emoji 👩‍👩‍👧 end",
        "a  b\tc\nd",
        "ﬁne Ⅳ",
    ],
)
def test_a_span_holds_what_its_piece_says(tokenizer: Tokenizer, text: str) -> None:
    ids, offsets = tokenizer.encode(text)
    for token, (start, end) in zip(ids, offsets, strict=True):
        piece = tokenizer.piece(token).removeprefix("##").replace("▁", "")
        span = "".join(
            c for c in unicodedata.normalize("NFKD", text[start:end]).lower() if unicodedata.category(c) != "Mn"
        )
        if token != tokenizer.unk and len(piece) > 0 and span != piece:
            # A compatibility character (ﬁ, Ⅳ) that is cut belongs to the piece that takes its last part.
            assert unicodedata.normalize("NFKC", text) != unicodedata.normalize("NFC", text)
            assert piece in span or span in piece
        assert not text[start:end].startswith(" ")
    covered = {i for start, end in offsets for i in range(start, end)}
    marks = {i for i, c in enumerate(text) if unicodedata.category(c) in ("Mn", "Cf")}
    assert covered | marks | {i for i, c in enumerate(text) if c.isspace()} == set(range(len(text)))


def test_plain_words_come_back(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode_batch(["the value of an expression"])[0]
    assert tokenizer.decode(ids) == "the value of an expression"
    pad, cls, sep, mask = tokenizer.special
    assert tokenizer.decode([cls, *ids[:1], mask, *ids[1:], sep, pad]).split() == [
        *["the", "[MASK]", "value", "of", "an", "expression"]
    ]
    starts = [tokenizer.starts_word(i) for i in ids]
    assert starts[0]
    assert sum(starts) == 5
    assert tokenizer.starts_word(mask)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lower_case", [True, False])
@pytest.mark.parametrize("strip_accents", [True, False, None])
def test_casing_and_accents(kind: str, lower_case: bool, strip_accents: bool | None) -> None:
    text = ["Élan ÉLAN élan elan Elan ELAN", *string.ascii_letters, *"éÉ"] * 30
    config = configured(tokenizer=kind, lower_case=lower_case, strip_accents=strip_accents, vocab_size=140)
    text += DOCUMENTS[0].split("\n")
    tokenizer = train_tokenizer(text, config)
    strips = lower_case if strip_accents is None else strip_accents
    assert tokenizer.settings["lower_case"] == lower_case
    assert tokenizer.settings["strip_accents"] == strips
    same = lambda a, b: tokenizer.encode_batch([a]) == tokenizer.encode_batch([b])  # noqa: E731
    assert same("Elan", "elan") == lower_case
    assert same("élan", "elan") == strips
    assert same("e\u0301lan", "élan") or kind == "wordpiece"  # BERT leaves what is decomposed as it is
    assert same("ÉLAN", "élan") == lower_case


@pytest.mark.parametrize("kind", KINDS)
def test_training_gives_one_result(kind: str, request: pytest.FixtureRequest) -> None:
    # Another process has another order in its hash tables.
    program = f"from tests.text.conftest import trained; print(trained(tokenizer={kind!r}).fingerprint)"
    found = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    expected = request.getfixturevalue(f"{kind}_tokenizer").fingerprint
    assert found.stdout.strip() == expected
    assert found.stderr == ""
    assert trained(tokenizer=kind).fingerprint == expected
    assert trained(tokenizer=kind, vocab_size=601).fingerprint != expected


def test_saved_and_loaded(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path / "t")
    loaded = load_tokenizer(tmp_path / "t")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.settings == tokenizer.settings
    assert loaded.encode_batch(["Some text é"]) == tokenizer.encode_batch(["Some text é"])
    again = open_tokenizer_file(tmp_path / "t", configured())
    assert again.fingerprint == tokenizer.fingerprint
    file = next(p for p in (tmp_path / "t").iterdir() if p.name != SETTINGS)
    given_file = open_tokenizer_file(file, configured())
    assert given_file.fingerprint == tokenizer.fingerprint


def test_a_damaged_tokenizer_is_refused(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    file = next(p for p in tmp_path.iterdir() if p.name != SETTINGS)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(MachineError, match="damaged"):
        load_tokenizer(tmp_path)
    (tmp_path / SETTINGS).write_text("{")
    with pytest.raises(MachineError, match="cannot be read"):
        load_tokenizer(tmp_path)
    (tmp_path / SETTINGS).unlink()
    with pytest.raises(UserError, match="holds no tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\n", r"has no \[MASK\]"),
        (b"[UNK]\n[PAD]\n[CLS]\n[SEP]\n[MASK]\nthe\n", "padding at id 1"),
        (b"[PAD]\n[CLS]\n[SEP]\n[MASK]\nthe\n", r"no \[UNK\]"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nthe\nthe\n", "'the' more than once"),
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "neither a SentencePiece model nor a WordPiece vocabulary"),
        (b"", r"has no \[PAD\], \[CLS\], \[SEP\], \[MASK\]"),
    ],
)
def test_unfit_files(content: bytes, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "vocab.txt"
    file.write_bytes(content)
    with pytest.raises(UserError, match=sentence) as caught:
        open_tokenizer_file(file, configured())
    assert "\n" not in str(caught.value)


def sentencepiece_model(**settings: object) -> bytes:
    import io

    import sentencepiece

    found = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(DOCUMENTS[0].split("\n")), model_writer=found, minloglevel=2, **settings
    )
    return found.getvalue()


def test_a_sentencepiece_model_without_mask(tmp_path: Path) -> None:
    file = tmp_path / "plain.model"
    file.write_bytes(sentencepiece_model(vocab_size=90))
    with pytest.raises(UserError, match=r"has no \[PAD\], \[CLS\], \[SEP\], \[MASK\]"):
        open_tokenizer_file(file, configured())


def test_user_defined_symbols_of_a_given_model_are_never_read_out_of_a_text(tmp_path: Path) -> None:
    file = tmp_path / "given.model"
    symbols = ["[CLS]", "[SEP]", "[MASK]"]
    file.write_bytes(
        sentencepiece_model(vocab_size=90, pad_id=0, unk_id=1, bos_id=-1, eos_id=-1, user_defined_symbols=symbols)
    )
    tokenizer = open_tokenizer_file(file, configured())
    text = "a [MASK] b [SEP]"
    assert not set(tokenizer.encode_batch([text])[0]) & set(tokenizer.special)
    assert tokenizer.encode(text).ids == tokenizer.encode_batch([text])[0]
    assert tokenizer.unk in tokenizer.encode(text).ids


@pytest.mark.parametrize("kind", KINDS)
def test_a_corpus_too_small_for_the_vocabulary(kind: str) -> None:
    with pytest.raises(UserError, match=r"too small for a vocabulary of 5,000 pieces: it yields \d+") as caught:
        train_tokenizer(["some words and no more than that", "and some"], configured(tokenizer=kind, vocab_size=5000))
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError):
        train_tokenizer([], configured(tokenizer=kind, vocab_size=5000))


def test_more_characters_than_pieces() -> None:
    lines = ["".join(chr(code) for code in range(0x4E00, 0x4E00 + 500))] * 3
    with pytest.raises(UserError, match="whose characters alone"):
        train_tokenizer(lines, configured(vocab_size=100))


def bert(vocabulary: Path, lower_case: bool) -> object:
    from tokenizers import BertWordPieceTokenizer

    return BertWordPieceTokenizer(str(vocabulary), lowercase=lower_case)


@shared_fixture
@given(TEXT, st.booleans())
def test_wordpiece_is_berts(
    wordpiece_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory, text: str, lower_case: bool
) -> None:
    folder = tmp_path_factory.getbasetemp() / "bert"
    if not folder.exists():
        wordpiece_tokenizer.save(folder)
    tokenizer = open_tokenizer_file(folder / "vocab.txt", configured(lower_case=lower_case))
    expected = bert(folder / "vocab.txt", lower_case).encode(text, add_special_tokens=False)  # type: ignore[attr-defined]
    if not any(special in text for special in ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]")):
        assert tokenizer.encode_batch([text])[0] == expected.ids


def test_wordpiece_is_berts_with_the_published_vocabulary(shared_data: Path) -> None:
    vocabulary = shared_data / "vocab" / "bert_uncased_vocab.txt"
    tokenizer = open_tokenizer_file(vocabulary, configured())
    assert tokenizer.vocab_size == 30522
    assert tokenizer.special == SpecialTokens(pad=0, cls=101, sep=102, mask=103)
    theirs = bert(vocabulary, True)
    texts = [*DOCUMENTS[:20], "Café déjà-vu, 日本語 😀! it's_ok a\x01b c\x85d 'quoted'"]
    expected = theirs.encode_batch(texts, add_special_tokens=False)  # type: ignore[attr-defined]
    assert tokenizer.encode_batch([t.replace("\n", " ") for t in texts]) == [e.ids for e in expected]


def test_sample_is_spread_and_bounded() -> None:
    documents = [f"line {i} of the text\nand more of {i}" for i in range(20_000)]
    sample = sample_lines(documents, 50_000)
    size = sum(len(line) for line in sample)
    assert 40_000 < size < 60_000
    where = [int(line.split()[1]) for line in sample if line.startswith("line")]
    assert where == sorted(where)
    quarters = [sum(i // 5000 == q for i in where) / len(where) for q in range(4)]
    assert all(0.15 < share < 0.35 for share in quarters)
    assert sample_lines(documents[:5], 50_000) == [line for text in documents[:5] for line in text.split("\n")]


@given(st.lists(TEXT, max_size=4), st.integers(8, 64))
def test_cut_lines_loses_nothing(lines: list[str], size: int) -> None:
    cut = list(cut_lines(lines, size))
    assert all(len(part.encode()) <= size for part in cut)
    assert "".join("".join(cut).split()) == "".join("".join(lines).split())


def test_settings_are_plain_json(tokenizer: Tokenizer) -> None:
    assert json.loads(json.dumps(tokenizer.settings)) == tokenizer.settings
