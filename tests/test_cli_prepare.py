"""Corpora that cannot be used, through the command: one sentence, exit code 2, nothing half-written."""

import subprocess
from pathlib import Path

import pytest
from runs import electra_jax, write_corpus

from tests.text.test_corpus import BAD

# What `BAD` does not hold, because there it is a file's, not a line's, fault.
WHOLE = {
    "empty": ("a.txt", b"", "a.txt holds no text"),
    "blank": ("a.txt", b"\n \n\n", "a.txt holds no text"),
    "binary": ("a.txt", bytes(range(256)) * 64, "is a binary file"),
    "one line of 50 MB": ("a.txt", b"word " * 10_000_000, "line 1 is over 16 MB"),
}


def prepare(*more: str | Path) -> subprocess.CompletedProcess[bytes]:
    sizes = ("--length", "32", "--vocab-size", "128", "--sample-mb", "1", "--workers", "2")
    return electra_jax("prepare", *sizes, *more)


def assert_refused(done: subprocess.CompletedProcess[bytes], words: str, out: Path) -> None:
    said = done.stderr.decode()
    assert done.returncode == 2, said
    assert words in said
    assert len(said.strip().splitlines()) == 1, said
    assert not out.exists()
    assert list(out.parent.iterdir()) == []


@pytest.fixture
def out(tmp_path: Path) -> Path:
    (tmp_path / "outputs").mkdir()
    return tmp_path / "outputs" / "data"


@pytest.mark.parametrize("case", WHOLE)
def test_a_file_that_is_no_text(case: str, tmp_path: Path, out: Path) -> None:
    name, content, words = WHOLE[case]
    (tmp_path / name).write_bytes(content)
    assert_refused(prepare("--corpus", tmp_path / name, "--out", out), words, out)


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD)
def test_a_bad_line_met_while_rows_are_written(case: str, tmp_path: Path, out: Path) -> None:
    """Behind more good text than the tokenizer is trained on, so that the workers are busy when it comes."""
    name, content, _, _ = BAD[case]
    good = write_corpus(tmp_path / "good.txt", documents=6_000)
    (tmp_path / name).write_bytes(content)
    done = prepare("--corpus", good, tmp_path / name, "--out", out)
    assert_refused(done, name, out)
    skipped = prepare("--corpus", good, tmp_path / name, "--out", out, "--skip-bad")
    assert skipped.returncode == 0, skipped.stderr.decode()
    assert "skipped" in skipped.stdout.decode()
