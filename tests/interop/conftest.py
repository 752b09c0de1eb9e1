"""A tokenizer of as many pieces as the tiny networks know, and folders made with it."""

from pathlib import Path
from typing import NamedTuple

import pytest
from parity import PIECES, TASKS, TINY, TINY_NETWORKS, random_params

from electra_jax.interop.export import export_huggingface
from electra_jax.interop.model_card import Facts
from electra_jax.networks import NetworksConfig
from electra_jax.text.wordpiece import WordPieceTokenizer


class Folders(NamedTuple):
    """Hugging Face folders of tiny networks, to be read only."""

    discriminator: Path
    generator: Path
    tasks: dict[str, Path]


@pytest.fixture(scope="session")
def tiny_tokenizer() -> WordPieceTokenizer:
    assert len(PIECES) == TINY.vocab_size
    return WordPieceTokenizer(PIECES, lower_case=True, strip_accents=True, where="the test")


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer: WordPieceTokenizer) -> Folders:
    out = tmp_path_factory.mktemp("folders")
    export_huggingface(out / "both", TINY_NETWORKS, random_params(TINY_NETWORKS), tiny_tokenizer, Facts(0))
    for name, task in TASKS.items():
        networks = NetworksConfig(discriminator=TINY, task=task)
        export_huggingface(out / name, networks, random_params(networks), tiny_tokenizer, Facts(0))
    return Folders(out / "both" / "discriminator", out / "both" / "generator", {name: out / name for name in TASKS})
