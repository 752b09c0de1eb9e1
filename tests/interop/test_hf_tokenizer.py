import json
import lzma
import math
import random
import shutil
import sys
import unicodedata
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from electra_jax.errors import UserError
from electra_jax.interop.hf_tokenizer import read_tokenizer, write_tokenizer
from electra_jax.text.sentencepiece import SentencePieceTokenizer
from electra_jax.text.tokenizer import Tokenizer, open_tokenizer_file, train_tokenizer
from tests.text.conftest import DOCUMENTS, trained
from tests.text.conftest import settings as configured
from tests.text.test_tokenizer import sentencepiece_model

LINES = [line for document in DOCUMENTS for line in document.split("\n")]
CASINGS = [(True, True), (True, False), (False, True), (False, False)]
ENGLISH = ["The", "value", "of", "an", "expression", "is", "returned", ",", "it's", "(", "list's", ")", "Élan,", "CAFÉ"]
ODD = [
    *("café", "ÉLAN", "naïve", "e\u0301te\u0301", "Ångström", "ёлка", "Й", "Straße", "İstanbul", "ﬁne", "Ⅳ", "x²"),
    *(
        "日本語",
        "中文字",
        "한국어",
        "ไทย",
        "हिन्दी",
        "العربية",
        "😀",
        "👩‍👩‍👧",
        "❤️",
        "…",
        "—",
        "“quoted”",
        "€3.50",
        "http://www.a.org",
    ),
    *("a\x01b", "\u200b", "\u3000", "c\x85d", "\ufeff", "\ufffd", "\xa0", "soft\xadhyphen", "x" * 120, "#@$%", "▁"),
]
# Characters that are each seen as one, whatever stands beside them.
JOINING = [*"\u0e33\u0eb3\uff9e\uff9f", *map(chr, range(0x1F3FB, 0x1F400))]
CONJOINING = [*range(0x1100, 0x1200), *range(0xA960, 0xA980), *range(0xD7B0, 0xD800)]
ALONE = st.characters(
    min_codepoint=1,
    exclude_categories=["Cs", "Mn", "Mc", "Me", "Cf", "Cn"],
    exclude_characters=[*JOINING, *map(chr, CONJOINING)],
)
TEXT = st.text(st.one_of(ALONE, st.sampled_from("aB É日[]▁\n")), max_size=60)
shared_fixture = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def wordpiece_tokenizer() -> Tokenizer:
    return trained(tokenizer="wordpiece")


@pytest.fixture(scope="module")
def sentencepiece_tokenizer() -> Tokenizer:
    return trained()


def odd_lines(number: int) -> list[str]:
    rng = random.Random(0)
    return [rng.choice([" ", "  ", ""]).join(rng.choices(ENGLISH + ODD, k=12)) for _ in range(number)]


@pytest.fixture(scope="module")
def real_lines(shared_data: Path) -> list[str]:
    """10,000 lines of books and encyclopedia."""

    def read() -> Iterator[str]:
        for name in ("valid", "wiki_books-00005-of-00006"):
            with lzma.open(shared_data / "corpus" / f"{name}.txt.xz", "rt", encoding="utf-8", newline="\n") as file:
                yield from (line.rstrip("\n") for line in file if line.strip())

    lines = list(islice(read(), 10_000))
    assert len(lines) == 10_000
    return lines


def written(tokenizer: Tokenizer, folder: Path) -> Path:
    write_tokenizer(tokenizer, folder, 128)
    (folder / "config.json").write_text(json.dumps({"model_type": "electra"}))
    return folder


def open_auto(folder: Path) -> Any:
    return pytest.importorskip("transformers").AutoTokenizer.from_pretrained(folder)


def open_library(folder: Path) -> tokenizers.Tokenizer:
    return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))


def small(kind: str, lower_case: bool, strip_accents: bool) -> Tokenizer:
    config = configured(tokenizer=kind, lower_case=lower_case, strip_accents=strip_accents, vocab_size=300)
    return train_tokenizer([*LINES[:500], *ENGLISH * 20, *"éÉ" * 20], config)


@pytest.fixture(params=[(k, *c) for k in ("wordpiece", "sentencepiece") for c in CASINGS], scope="module", ids=str)
def casing(request: pytest.FixtureRequest) -> Tokenizer:
    return small(*request.param)


# WordPiece against Transformers


def check_equal_to_bert(vocabulary: Path, lower_case: bool, lines: list[str]) -> None:
    transformers = pytest.importorskip("transformers")
    ours = open_tokenizer_file(vocabulary, configured(lower_case=lower_case))
    ids = {ours.piece(i): i for i in range(ours.vocab_size)}
    bert = transformers.BertTokenizer(vocab=ids, do_lower_case=lower_case)
    theirs = bert(lines, add_special_tokens=False, return_offsets_mapping=True)
    assert ours.encode_batch(lines) == theirs["input_ids"]
    for line, found, spans in zip(lines, theirs["input_ids"], theirs["offset_mapping"], strict=True):
        assert ours.encode(line) == (found, spans)


@pytest.mark.slow
@pytest.mark.parametrize("lower_case", [True, False])
def test_the_published_vocabulary_is_transformers_bert(
    shared_data: Path, real_lines: list[str], lower_case: bool
) -> None:
    vocabulary = shared_data / "vocab" / "bert_uncased_vocab.txt"
    check_equal_to_bert(vocabulary, lower_case, [*real_lines, *odd_lines(1000)])


@pytest.mark.parametrize("lower_case", [True, False])
def test_a_small_vocabulary_is_transformers_bert(
    wordpiece_tokenizer: Tokenizer, tmp_path: Path, lower_case: bool
) -> None:
    wordpiece_tokenizer.save(tmp_path)
    check_equal_to_bert(tmp_path / "vocab.txt", lower_case, [*LINES[:1000], *odd_lines(1000)])


def test_a_written_wordpiece_gives_our_ids_in_the_library(wordpiece_tokenizer: Tokenizer, tmp_path: Path) -> None:
    theirs = open_library(written(wordpiece_tokenizer, tmp_path))
    lines = [*LINES[:1000], *odd_lines(500)]
    found = theirs.encode_batch(lines, add_special_tokens=False)
    assert [e.ids for e in found] == wordpiece_tokenizer.encode_batch(lines)
    assert [e.offsets for e in found] == [wordpiece_tokenizer.encode(line).offsets for line in lines]


# SentencePiece against what is written


def different(tokenizer: Tokenizer, folder: Path, lines: list[str], theirs: list[list[int]]) -> tuple[int, int]:
    """(lines with other ids, those among them that are not the same words cut in an equally likely way).

    Equally likely to float32, in which SentencePiece sums over a line; see the module's docstring.
    """
    scores = [score for _, score in json.loads((folder / "tokenizer.json").read_text("utf-8"))["model"]["vocab"]]

    def spelled(ids: list[int]) -> tuple[str, float]:
        return "".join(map(tokenizer.piece, ids)), math.fsum(scores[i] for i in ids)

    pairs = [(a, b) for a, b in zip(tokenizer.encode_batch(lines), theirs, strict=True) if a != b]
    tied = 0
    for (words, score), (their_words, their_score) in ((spelled(a), spelled(b)) for a, b in pairs):
        tied += words == their_words and math.isclose(score, their_score, rel_tol=1e-6)
    return len(pairs), len(pairs) - tied


@pytest.mark.slow
@pytest.mark.parametrize("lower_case", [True, False])
def test_sentencepiece_gives_our_ids_in_transformers_on_real_text(
    real_lines: list[str], tmp_path: Path, lower_case: bool
) -> None:
    ours = train_tokenizer(real_lines[:1500], configured(lower_case=lower_case, vocab_size=2000))
    folder = written(ours, tmp_path)
    theirs = open_auto(folder)(real_lines, add_special_tokens=False)["input_ids"]
    others, wrong = different(ours, folder, real_lines, theirs)
    assert wrong == 0
    assert others <= 20


def test_sentencepiece_gives_our_ids_in_the_library(tmp_path: Path, sentencepiece_tokenizer: Tokenizer) -> None:
    folder = written(sentencepiece_tokenizer, tmp_path)
    lines = [*LINES, *odd_lines(500)]
    theirs = [e.ids for e in open_library(folder).encode_batch(lines, add_special_tokens=False)]
    assert different(sentencepiece_tokenizer, folder, lines, theirs)[1] == 0
    for line in ("", " ", "a", "  a", "a  ", "▁a▁", "\x01", "\u0301a", "a\n\nb", "한국어", "日 本"):
        found = open_library(folder).encode(line, add_special_tokens=False).ids
        assert found == sentencepiece_tokenizer.encode(line).ids, line


@shared_fixture
@given(TEXT)
def test_sentencepiece_gives_our_ids_on_any_characters_that_do_not_join(
    casing: Tokenizer, tmp_path_factory: pytest.TempPathFactory, text: str
) -> None:
    folder = tmp_path_factory.getbasetemp() / casing.fingerprint
    if not (folder / "config.json").is_file():
        written(casing, folder)
    if not any(name in text for name in ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")):
        theirs = open_library(folder).encode(text, add_special_tokens=False).ids
        if isinstance(casing, SentencePieceTokenizer):
            assert different(casing, folder, [text], [theirs])[1] == 0
        else:
            assert casing.encode(text).ids == theirs


@pytest.mark.parametrize(("lower_case", "strip_accents"), CASINGS)
def test_every_character_and_its_parts_normalise_as_in_sentencepiece(
    lower_case: bool, strip_accents: bool, tmp_path: Path
) -> None:
    casing = small("sentencepiece", lower_case, strip_accents)
    assert isinstance(casing, SentencePieceTokenizer)
    theirs = open_library(written(casing, tmp_path)).normalizer
    single = [chr(i) for i in range(1, sys.maxunicode + 1) if unicodedata.category(chr(i)) not in ("Cs", "Cn", "Co")]
    parts = [unicodedata.normalize("NFD", character) for character in single]
    texts = single + [p for p, character in zip(parts, single, strict=True) if p != character]
    wrong = {t for t in texts if f"▁{theirs.normalize_str(f'a{t}b')}".replace(" ", "▁") != normalized(casing, t)}
    # Two marks in one; a capital that loses its dot in parts only; a script newer than the library's tables.
    assert wrong <= {"\u0344", "I\u0307", "\U00011935\U00011930"}


def normalized(tokenizer: SentencePieceTokenizer, text: str) -> str:
    return str(tokenizer._processor.normalize(f"a{text}b"))


# What is written, opened


def test_there_and_back(casing: Tokenizer, tmp_path: Path) -> None:
    assert read_tokenizer(written(casing, tmp_path)).fingerprint == casing.fingerprint


def test_the_json_alone_is_enough_for_wordpiece(wordpiece_tokenizer: Tokenizer, tmp_path: Path) -> None:
    written(wordpiece_tokenizer, tmp_path)
    (tmp_path / "vocab.txt").unlink()
    assert read_tokenizer(tmp_path).fingerprint == wordpiece_tokenizer.fingerprint
    (tmp_path / "tokenizer_config.json").unlink()
    assert read_tokenizer(tmp_path).fingerprint == wordpiece_tokenizer.fingerprint


def test_the_vocabulary_and_its_settings_are_enough(wordpiece_tokenizer: Tokenizer, tmp_path: Path) -> None:
    written(wordpiece_tokenizer, tmp_path)
    (tmp_path / "tokenizer.json").unlink()
    assert read_tokenizer(tmp_path).fingerprint == wordpiece_tokenizer.fingerprint
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    found = read_tokenizer(tmp_path).settings
    assert (found["lower_case"], found["strip_accents"]) == (False, False)


def test_pairs_and_special_tokens_in_the_library(casing: Tokenizer, tmp_path: Path) -> None:
    theirs = open_library(written(casing, tmp_path))
    _, cls, sep, mask = casing.special
    a, b = casing.encode_batch(["the value of", "an expression"])
    one, two = theirs.encode("the value of"), theirs.encode("the value of", "an expression")
    assert one.ids == [cls, *a, sep]
    assert two.ids == [cls, *a, sep, *b, sep]
    assert two.type_ids == [0] * (len(a) + 2) + [1] * (len(b) + 1)
    # The difference that is documented: there, a text can say [MASK].
    assert theirs.encode("the value [MASK] of", add_special_tokens=False).ids == [
        *casing.encode("the value").ids, mask, *casing.encode("of").ids
    ]  # fmt: skip
    assert mask not in casing.encode("the value [MASK] of").ids
    assert theirs.decode(a) == "the value of"


def test_an_export_opens_in_transformers(casing: Tokenizer, tmp_path: Path) -> None:
    theirs = open_auto(written(casing, tmp_path))
    found = (theirs.pad_token_id, theirs.cls_token_id, theirs.sep_token_id, theirs.mask_token_id)
    assert found == casing.special
    assert theirs.unk_token_id == casing.unk
    assert len(theirs) == casing.vocab_size
    assert theirs.model_max_length == 128
    a, b = casing.encode_batch(["the value of", "an expression"])
    _, cls, sep, _ = casing.special
    pair = theirs("the value of", "an expression")
    assert pair["input_ids"] == [cls, *a, sep, *b, sep]
    assert pair["token_type_ids"] == [0] * (len(a) + 2) + [1] * (len(b) + 1)
    # Capitals and accents as they were asked for.
    texts = ["Élan CAFÉ", "élan café", "Elan CAFE", "elan cafe"]
    assert theirs(texts, add_special_tokens=False)["input_ids"] == casing.encode_batch(texts)
    same = lambda x, y: theirs(x)["input_ids"] == theirs(y)["input_ids"]  # noqa: E731
    assert same("The", "the") == casing.settings["lower_case"]
    assert same("é", "e") == casing.settings["strip_accents"]


def test_what_transformers_saves_is_read(casing: Tokenizer, tmp_path: Path) -> None:
    theirs = open_auto(written(casing, tmp_path / "export"))
    theirs.save_pretrained(tmp_path / "again")
    if isinstance(casing, SentencePieceTokenizer):
        with pytest.raises(UserError, match=r"without its sentencepiece\.model and settings\.json: copy both"):
            read_tokenizer(tmp_path / "again")
        shutil.copy(tmp_path / "export" / "sentencepiece.model", tmp_path / "again")
        shutil.copy(tmp_path / "export" / "settings.json", tmp_path / "again")
    assert read_tokenizer(tmp_path / "again").fingerprint == casing.fingerprint


@pytest.mark.parametrize("lower_case", [True, False])
def test_a_bert_tokenizer_saved_by_transformers_is_read(
    wordpiece_tokenizer: Tokenizer, tmp_path: Path, lower_case: bool
) -> None:
    transformers = pytest.importorskip("transformers")
    vocabulary = {wordpiece_tokenizer.piece(i): i for i in range(wordpiece_tokenizer.vocab_size)}
    bert = transformers.BertTokenizer(vocab=vocabulary, do_lower_case=lower_case)
    bert.save_pretrained(tmp_path)
    found = read_tokenizer(tmp_path)
    assert found.settings["lower_case"] == lower_case
    lines = [*LINES[:200], *odd_lines(200)]
    assert found.encode_batch(lines) == bert(lines, add_special_tokens=False)["input_ids"]


SYMBOLS = {"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "control_symbols": ["[CLS]", "[SEP]", "[MASK]"]}


@pytest.mark.parametrize(
    "changes",
    [
        {"normalization_rule_name": "identity"},
        {"split_by_whitespace": False},
        {"control_symbols": [], "user_defined_symbols": ["[CLS]", "[SEP]", "[MASK]"]},
        {"control_symbols": ["[CLS]", "[SEP]", "[MASK]", "<s>"]},
    ],
)
def test_other_unigram_models_give_our_ids_too(changes: dict[str, Any], tmp_path: Path) -> None:
    ours = SentencePieceTokenizer(sentencepiece_model(**{"vocab_size": 120, **SYMBOLS, **changes}), "given")
    folder = written(ours, tmp_path)
    lines = ["", " a  b ", "  two  words", *LINES[:300]]
    theirs = [e.ids for e in open_library(folder).encode_batch(lines, add_special_tokens=False)]
    assert different(ours, folder, lines, theirs)[1] == 0
    assert read_tokenizer(folder).fingerprint == ours.fingerprint
