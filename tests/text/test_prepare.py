import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from rich.console import Console

from electra_jax.config import PrepareConfig
from electra_jax.errors import MachineError, UserError
from electra_jax.text.prepare import prepare, report_table
from electra_jax.text.rows import Rows, open_data_set
from electra_jax.text.tokenizer import Tokenizer, load_tokenizer
from tests.text.conftest import settings
from tests.text.test_packing import examples

TEXT = st.text(st.characters(exclude_characters="\0"), max_size=200)


@pytest.fixture(scope="module")
def tokenizer_folders(
    sentencepiece_tokenizer: Tokenizer, wordpiece_tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folders = {}
    for name, tokenizer in (("sentencepiece", sentencepiece_tokenizer), ("wordpiece", wordpiece_tokenizer)):
        folders[name] = tmp_path_factory.mktemp(name)
        tokenizer.save(folders[name])
    return folders


def all_rows(rows: Rows) -> np.ndarray:
    return rows.take(np.arange(len(rows)))


def as_read(text: str) -> str:
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return "\n".join(line.strip() for line in text.split("\n") if line.strip())


def by_lines(tokenizer: Tokenizer, text: str) -> list[int]:
    """A document's ids. The line is the unit: SentencePiece may settle a tie otherwise in a longer text."""
    return [i for line in text.split("\n") for i in tokenizer.encode(line).ids]


@pytest.mark.parametrize("kind", ["sentencepiece", "wordpiece"])
@hypothesis_settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    texts=st.lists(TEXT, min_size=1, max_size=12),
    length=st.integers(8, 40),
    packing=st.sampled_from(["isolated", "concat"]),
)
def test_whatever_goes_in_comes_back(
    kind: str,
    texts: list[str],
    length: int,
    packing: str,
    tokenizer_folders: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    folder = tmp_path_factory.mktemp("any")
    (folder / "corpus.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    tokenizer = load_tokenizer(tokenizer_folders[kind])
    # What the rows must hold, worked out a line at a time, the slow way.
    encoded = [by_lines(tokenizer, as_read(text)) for text in texts]
    config = settings(
        corpus=(str(folder / "corpus.jsonl"),),
        out=folder / "out",
        tokenizer_file=tokenizer_folders[kind],
        length=length,
        packing=packing,
        valid_share=0.0,
    )
    if not any(encoded):
        with pytest.raises(UserError):
            prepare(config)
        assert not (folder / "out").exists()
        return
    report = prepare(config)
    data_set = open_data_set(folder / "out", verify=True)
    found = examples(all_rows(data_set.train))
    if packing == "isolated":
        most = length - 2
        assert sorted(found) == sorted(ids[i : i + most] for ids in encoded for i in range(0, len(ids), most))
    else:
        assert [i for example in found for i in example] == [i for ids in encoded for i in ids]
    assert report.train.content_tokens == sum(map(len, encoded))
    assert report.train.documents == sum(bool(as_read(text)) for text in texts)
    back = Counter("".join(tokenizer.decode(example).split()) for example in found)
    if packing == "isolated" and all(len(ids) <= length - 2 for ids in encoded):
        expected = Counter("".join(tokenizer.decode(ids).split()) for ids in encoded if ids)
        assert back == expected


@pytest.mark.parametrize("packing", ["isolated", "concat", "reference"])
def test_held_out_documents_are_apart(packing: str, english: list[str], english_file: Path, tmp_path: Path) -> None:
    # Twice the same corpus: a document and its copy must fall on the same side.
    config = settings(
        corpus=(str(english_file),) * 2, out=tmp_path / "out", length=64, valid_share=0.2, packing=packing
    )
    report = prepare(config)
    data_set = open_data_set(tmp_path / "out")
    tokenizer = load_tokenizer(data_set.tokenizer_folder)
    if packing == "isolated":
        firsts = {tuple(by_lines(tokenizer, text)[:62]) for text in english}
        sides = [firsts & set(map(tuple, examples(all_rows(rows)))) for rows in (data_set.train, data_set.valid)]
        assert sides[0] | sides[1] == firsts
        assert sides[0]
        assert sides[1]
        assert not sides[0] & sides[1]
    assert report.train.documents + report.valid.documents == 2 * len(english)
    assert 0.02 < report.valid_share < 0.6
    assert report.fill > (0.6 if packing == "reference" else 0.97)
    assert report.valid.documents % 2 == 0


def test_the_report_says_it_all(english_file: Path, tmp_path: Path) -> None:
    (tmp_path / "bad.txt").write_bytes(b"\xff\nfine words here\n")
    corpus = (str(english_file), str(tmp_path / "bad.txt"))
    report = prepare(settings(corpus=corpus, out=tmp_path / "out", length=64, skip_bad=True), progress=True)
    assert report.skipped == {"line that is not UTF-8": 1}
    assert 1 < report.fragmentation < 4
    assert report.train.bytes + report.valid.bytes > 400_000
    console = Console(width=120, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(report_table(report))
    console.file.close()
    shown = console.export_text()
    for word in ("documents", "rows", "tokens", "fill", "fragmentation", "held out", "line that is not UTF-8", "MB/s"):
        assert word in shown


def test_workers_change_nothing(english: list[str], tmp_path: Path, tokenizer_folders: dict[str, Path]) -> None:
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n\n".join(f"{text}\n{i}" for i in range(18) for text in english), encoding="utf-8")
    fingerprints = set()
    for workers in (1, 2, 3):
        out = tmp_path / f"out{workers}"
        config = settings(corpus=(str(corpus),), out=out, workers=workers, packing="reference", length=64)
        prepare(dataclasses.replace(config, tokenizer_file=tokenizer_folders["sentencepiece"]))
        fingerprints.add(open_data_set(out).fingerprint)
    assert len(fingerprints) == 1


def test_a_small_corpus_still_holds_something_out(tmp_path: Path, tokenizer_folders: dict[str, Path]) -> None:
    corpus = tmp_path / "corpus.txt"
    config = settings(
        corpus=(str(corpus),), out=tmp_path / "out", tokenizer_file=tokenizer_folders["wordpiece"], valid_share=0.001
    )
    corpus.write_text("one text\n\nanother text\n\na third\n\nanother text")
    report = prepare(config)
    assert report.valid.documents >= 1
    assert report.train.documents >= 1
    corpus.write_text("only one text")
    with pytest.raises(UserError, match="single document"):
        prepare(dataclasses.replace(config, out=tmp_path / "out2"))
    report = prepare(dataclasses.replace(config, out=tmp_path / "out2", valid_share=0.0))
    assert report.valid.rows == 0
    assert len(open_data_set(tmp_path / "out2").valid) == 0


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"vocab_size": 30522}, "too small for a vocabulary of 30,522"),
        ({"vocab_size": 30522, "tokenizer": "wordpiece"}, "too small for a vocabulary of 30,522"),
        ({"corpus": ("nothing-here.txt",)}, "there is no file nothing-here.txt"),
        ({"tokenizer_file": Path("nowhere.model")}, "nowhere.model cannot be opened"),
    ],
)
def test_a_refusal_leaves_nothing_behind(
    changes: dict[str, object], sentence: str, english_file: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        prepare(settings(**{"corpus": (str(english_file),), "out": tmp_path / "out", **changes}))
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "changes", [{"length": 7}, {"length": -1}, {"valid_share": -0.1}, {"valid_share": 1.0}, {"workers": 0},
                {"vocab_size": -5}, {"sample_mb": 0}, {"corpus": ()}],
)  # fmt: skip
def test_impossible_settings(changes: dict[str, object]) -> None:
    with pytest.raises(UserError) as caught:
        settings(**changes)
    assert caught.value.exit_code == 2


def test_an_existing_folder_is_refused_at_once(english_file: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(UserError, match="exists already"):
        prepare(settings(corpus=("no-such-corpus",), out=tmp_path / "out"))
    assert (tmp_path / "out" / "mine").read_text() == "precious"


PROGRAM = """
import sys
from pathlib import Path
from electra_jax.config import PrepareConfig
from electra_jax.errors import UserError
from electra_jax.text.prepare import prepare
if __name__ == "__main__":
    {before}
    try:
        prepare(PrepareConfig(corpus=({corpus!r},), out=Path({out!r}), tokenizer_file={file}, length=64,
                              vocab_size=600, workers={workers}))
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(error.exit_code)
"""


def start(before: str, corpus: Path, out: Path, tokenizer: Path | None, workers: int) -> "subprocess.Popen[str]":
    file = f"Path({str(tokenizer)!r})" if tokenizer else None
    program = PROGRAM.format(before=before, corpus=str(corpus), out=str(out), file=file, workers=workers)
    return subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.PIPE, text=True, start_new_session=True)


@pytest.fixture(scope="module")
def large_corpus(english: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("large") / "corpus.txt"
    with open(path, "w", encoding="utf-8") as file:
        for i in range(150):
            file.write("\n\n".join(f"{text}\n{i}" for text in english) + "\n\n")
    return path


def children(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True).stdout
    return [int(word) for word in found.split()]


def alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


def wait_until(condition: object, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.02)


def encoding(out: Path) -> bool:
    return any(path.stat().st_size > 1000 for path in out.parent.glob(f".{out.name}.*/train-*.npy"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
@pytest.mark.parametrize("stage", ["encoding", "training"])
def test_a_signal_leaves_nothing_behind(
    number: signal.Signals, stage: str, large_corpus: Path, tmp_path: Path, tokenizer_folders: dict[str, Path]
) -> None:
    out = tmp_path / "out"
    tokenizer = tokenizer_folders["sentencepiece"] if stage == "encoding" else None
    process = start("pass", large_corpus, out, tokenizer, 2)
    if stage == "encoding":
        wait_until(lambda: encoding(out))
    else:
        wait_until(lambda: list(tmp_path.glob(".out.*/sample.txt")) and len(children(process.pid)) >= 2)
        time.sleep(1)
    workers = children(process.pid)
    assert workers
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # a terminal's Ctrl-C reaches the workers too
    else:
        process.send_signal(number)
    _, said = process.communicate(timeout=30)
    assert said.count("Traceback") == (number == signal.SIGINT)  # the program's own; none of a worker
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: -2, signal.SIGKILL: -9}[number]
    wait_until(lambda: not any(map(alive, workers)), 10)
    assert not out.exists()
    if number != signal.SIGKILL:
        assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="looks at /proc")
@pytest.mark.parametrize("stage", ["encoding", "training"])
def test_a_worker_that_dies_is_one_sentence(
    stage: str, large_corpus: Path, tmp_path: Path, tokenizer_folders: dict[str, Path]
) -> None:
    out = tmp_path / "out"
    tokenizer = tokenizer_folders["sentencepiece"] if stage == "encoding" else None
    process = start("pass", large_corpus, out, tokenizer, 2)
    if stage == "encoding":
        wait_until(lambda: encoding(out))
    else:
        wait_until(lambda: list(tmp_path.glob(".out.*/sample.txt")) and len(children(process.pid)) >= 2)
    for pid in children(process.pid):
        if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text():
            os.kill(pid, signal.SIGKILL)
            break
    _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "died, most likely for want of memory" in said
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


FILE_LIMIT = """
    import resource, signal
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
""".strip()


def no_space(folder: Path, corpus: Path, tokenizer: Path, before: str) -> None:
    process = start(before, corpus, folder / "out", tokenizer, 1)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert "no space left for" in said
    assert len(said.splitlines()) == 1
    assert list(folder.iterdir()) == []


def test_no_space_left_by_a_limit(english_file: Path, tmp_path: Path, tokenizer_folders: dict[str, Path]) -> None:
    no_space(tmp_path, english_file, tokenizer_folders["wordpiece"], FILE_LIMIT)


@pytest.mark.slow
def test_no_space_left_on_a_full_disk(large_corpus: Path, tmp_path: Path, tokenizer_folders: dict[str, Path]) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(disk)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small file system")
    try:
        no_space(disk, large_corpus, tokenizer_folders["wordpiece"], "pass")
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_a_shared_shard_becomes_rows(shared_data: Path, tmp_path: Path) -> None:
    config = PrepareConfig(
        corpus=(str(shared_data / "corpus" / "valid.txt.xz"),),
        out=tmp_path / "out",
        tokenizer_file=shared_data / "vocab" / "bert_uncased_vocab.txt",
    )
    report = prepare(config)
    assert report.fill >= 0.97
    assert report.vocab_size == 30522
    assert 1.1 < report.fragmentation < 1.6
    assert open_data_set(tmp_path / "out").special.mask == 103


def test_machine_errors_are_user_errors_of_another_code() -> None:
    assert (UserError.exit_code, MachineError.exit_code) == (2, 1)
