"""The runs that the tests of kills and faults disturb, and the one that nothing did."""

from pathlib import Path

import pytest
from long_runs import LONG
from runs import compiled_before, electra_jax, prepare_args, pretrain_args, write_corpus


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    electra_jax(*prepare_args(write_corpus(folder / "corpus.txt"), folder / "data"), check=True)
    return folder / "data"


@pytest.fixture(scope="module")
def cache() -> dict[str, str]:
    """Programs compiled as users have them: these tests start the same one dozens of times."""
    return {**compiled_before(), "XLA_FLAGS": ""}


@pytest.fixture(scope="module")
def undisturbed(data: Path, cache: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("undisturbed") / "run"
    electra_jax(*pretrain_args(data, run, *LONG), check=True, **cache)
    return run
