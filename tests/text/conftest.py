"""Text that every Python brings along, and small tokenizers trained on it."""

from pathlib import Path
from pydoc_data.topics import topics

import pytest

from electra_jax.config import PrepareConfig
from electra_jax.text.tokenizer import Tokenizer, train_tokenizer

DOCUMENTS = ["\n".join(line.strip() for line in text.split("\n") if line.strip()) for text in topics.values()]


@pytest.fixture(scope="session")
def english() -> list[str]:
    """Some 80 documents, 450 kB of technical English."""
    return DOCUMENTS


@pytest.fixture(scope="session")
def english_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("english") / "english.txt"
    path.write_text("\n\n".join(DOCUMENTS), encoding="utf-8")
    return path


def settings(**changes: object) -> PrepareConfig:
    return PrepareConfig(**{"out": Path("unused"), "vocab_size": 600, **changes})


def trained(**changes: object) -> Tokenizer:
    lines = [line for text in DOCUMENTS[:30] for line in text.split("\n")]
    return train_tokenizer(lines, settings(**changes))


@pytest.fixture(scope="session")
def sentencepiece_tokenizer() -> Tokenizer:
    return trained()


@pytest.fixture(scope="session")
def wordpiece_tokenizer() -> Tokenizer:
    return trained(tokenizer="wordpiece")


@pytest.fixture(params=["sentencepiece", "wordpiece"])
def tokenizer(request: pytest.FixtureRequest) -> Tokenizer:
    found: Tokenizer = request.getfixturevalue(f"{request.param}_tokenizer")
    return found
