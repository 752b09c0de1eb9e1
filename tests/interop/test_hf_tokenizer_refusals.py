import json
import re
from pathlib import Path
from typing import Any

import pytest

from electra_jax.errors import UserError
from electra_jax.interop.hf_tokenizer import read_tokenizer, write_tokenizer
from electra_jax.text.sentencepiece import SentencePieceTokenizer
from electra_jax.text.tokenizer import Tokenizer
from tests.interop.test_hf_tokenizer import SYMBOLS, written
from tests.text.conftest import trained
from tests.text.test_tokenizer import sentencepiece_model


@pytest.fixture(scope="module")
def wordpiece_tokenizer() -> Tokenizer:
    return trained(tokenizer="wordpiece")


def refused(folder: Path) -> str:
    before = sorted(folder.rglob("*"))
    with pytest.raises(UserError) as caught:
        read_tokenizer(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)
    assert sorted(folder.rglob("*")) == before
    return str(caught.value)


def change(file: Path, path: str, value: object) -> None:
    content = json.loads(file.read_text("utf-8"))
    *outer, last = path.split(".")
    inner = content
    for name in outer:
        inner = inner[name]
    if value is None:
        del inner[last]
    else:
        inner[last] = value
    file.write_text(json.dumps(content), "utf-8")


@pytest.fixture
def folder(wordpiece_tokenizer: Tokenizer, tmp_path: Path) -> Path:
    return written(wordpiece_tokenizer, tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "sentence"),
    [
        ("model.type", "BPE", "is a BPE model, not WordPiece"),
        ("model.type", "WordLevel", "is a WordLevel model"),
        ("model.type", "Unigram", "without its sentencepiece.model"),
        ("model.continuing_subword_prefix", "@@", "continuing_subword_prefix '@@' instead of '##'"),
        ("model.max_input_chars_per_word", 50, "max_input_chars_per_word 50 instead of 100"),
        ("model.unk_token", "<unk>", r"unk_token '<unk>' instead of '\[UNK\]'"),
        ("normalizer", {"type": "NFKC"}, "the normalizer NFKC instead of BertNormalizer"),
        ("normalizer.clean_text", False, "clean_text switched off"),
        ("normalizer.handle_chinese_chars", False, "handle_chinese_chars switched off"),
        ("normalizer.lowercase", False, "tokenizer_config.json in .* means lower case"),
        ("normalizer.strip_accents", False, "means lower case and no accents, but tokenizer.json lower case and acc"),
        ("pre_tokenizer", {"type": "Whitespace"}, "the pre-tokenizer Whitespace instead of BertPreTokenizer"),
        ("added_tokens", [{"id": 600, "content": "<x>", "special": True}], "adds the token '<x>'"),
        ("added_tokens", [{"id": 9, "content": "[MASK]", "special": True}], r"adds the token '\[MASK\]'"),
        ("added_tokens", [{"id": 9, "content": "the", "special": False}], "reads 'the' out of a text"),
        ("model.vocab.more", 600, "different vocabularies"),
        ("model.vocab.more", 700, "ids that are not 0, 1, 2"),
        ("model.vocab", ["[PAD]"], "is damaged"),
        ("model.vocab.more", "x", "is damaged"),
        ("model", None, "is damaged"),
        ("normalizer.lowercase", "no", "is damaged .*neither true nor false"),
    ],
)
def test_an_unfit_json_is_refused(folder: Path, path: str, value: object, sentence: str) -> None:
    change(folder / "tokenizer.json", path, value)
    assert re.search(sentence, refused(folder))


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("do_lower_case", False, "tokenizer_config.json in .* means capitals and no accents"),
        ("strip_accents", False, "means lower case and accents"),
        ("do_lower_case", "false", "is damaged .*neither true nor false"),
        ("tokenize_chinese_chars", False, "has tokenize_chinese_chars False"),
        ("do_basic_tokenize", False, "has do_basic_tokenize False"),
        ("never_split", ["<x>"], "has never_split"),
        ("tokenizer_class", "BertJapaneseTokenizer", "is a BertJapaneseTokenizer"),
        ("mask_token", {"content": "<mask>"}, r"mask_token '<mask>' instead of \[MASK\]"),
        ("added_tokens_decoder", {"600": {"content": "<x>", "special": True}}, "adds the token '<x>'"),
        ("added_tokens_decoder", {"x": {"content": "<x>", "special": True}}, "is damaged"),
        ("added_tokens_decoder", 3, "is damaged"),
    ],
)
def test_unfit_settings_are_refused(folder: Path, name: str, value: object, sentence: str) -> None:
    change(folder / "tokenizer_config.json", name, value)
    assert re.search(sentence, refused(folder))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", [b"", b"[1]", b'"text"', b"\xff\xfe", b"[" * 100_000, b'{"a": 1', b"{}"])
def test_damaged_json_is_refused(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    if (name, content) == ("tokenizer_config.json", b"{}"):
        assert read_tokenizer(folder).settings["lower_case"]  # BERT's own casing
    else:
        refused(folder)


def test_truncated_json_is_refused(folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        content = (folder / name).read_bytes()
        for size in range(1, len(content), len(content) // 10):
            (folder / name).write_bytes(content[:size])
            assert "not one whole JSON object" in refused(folder)
        (folder / name).write_bytes(content)


def test_missing_files_are_named(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()
    assert "add tokenizer_config.json" in refused(folder)
    (folder / "vocab.txt").unlink()
    assert "holds no tokenizer" in refused(folder)
    assert "holds no tokenizer" in refused(folder / "nothing")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast"}')
    (folder / "vocab.txt").write_text("[PAD]\n")
    assert "but no tokenizer.json" in refused(folder)


def test_a_vocabulary_that_disagrees_is_refused(folder: Path) -> None:
    file = folder / "vocab.txt"
    pieces = file.read_text("utf-8").split("\n")
    file.write_text("\n".join([*pieces[:10], pieces[11], pieces[10], *pieces[12:]]), "utf-8")
    assert "different vocabularies" in refused(folder)


def test_tokens_added_by_transformers_4_are_refused(folder: Path) -> None:
    (folder / "added_tokens.json").write_text('{"<x>": 600}')
    assert "adds the token '<x>'" in refused(folder)


def test_padding_elsewhere_is_refused(folder: Path) -> None:
    (folder / "vocab.txt").unlink()
    backend = json.loads((folder / "tokenizer.json").read_text("utf-8"))
    backend["model"]["vocab"] |= {"[PAD]": 1, "[UNK]": 0}
    backend["added_tokens"] = []
    (folder / "tokenizer.json").write_text(json.dumps(backend))
    assert "padding at id 1" in refused(folder)


def test_a_damaged_or_foreign_sentencepiece_model_is_refused(tmp_path: Path) -> None:
    written(trained(), tmp_path)
    backend = json.loads((tmp_path / "tokenizer.json").read_text("utf-8"))
    backend["model"]["vocab"][9][0] += "x"
    (tmp_path / "tokenizer.json").write_text(json.dumps(backend))
    assert "different vocabularies" in refused(tmp_path)
    file = tmp_path / "sentencepiece.model"
    file.write_bytes(file.read_bytes()[:-100])
    assert "damaged" in refused(tmp_path)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"model_type": "bpe"}, "not a unigram model"),
        ({"vocab_size": 400, "byte_fallback": True}, "unknown characters as bytes"),
        ({"user_defined_symbols": ["(", "<x>"]}, r"user-defined symbols \('\(', '<x>'\)"),
        ({"treat_whitespace_as_suffix": True}, "spaces at the end of words"),
        ({"add_dummy_prefix": False}, "no space before a text"),
        ({"remove_extra_whitespaces": False}, "keeps repeated spaces"),
    ],
)
def test_a_model_that_cannot_be_written_is_refused(changes: dict[str, Any], sentence: str, tmp_path: Path) -> None:
    model = sentencepiece_model(**{"vocab_size": 120, **SYMBOLS, **changes})
    with pytest.raises(UserError, match=sentence) as caught:
        write_tokenizer(SentencePieceTokenizer(model, "given"), tmp_path / "out", 128)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()
