import bz2
import gzip
import json
import lzma
import os
import random
import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from electra_jax.errors import UserError
from electra_jax.text import docstrings
from electra_jax.text.corpus import MAX_DOCUMENT, MAX_LINE, Meter, documents, sources
from tests.text.conftest import settings

TEXT = "First document.\nIts second line.\n\n\n  Second, indented  \r\n\r\nThird: é 日本 😀"
DOCUMENTS = ["First document.\nIts second line.", "Second, indented", "Third: é 日本 😀"]
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "": bytes,
    ".gz": gzip.compress,
    ".xz": lzma.compress,
    ".zst": zstandard.ZstdCompressor().compress,
}


def read(spec: object, **changes: object) -> list[str]:
    return list(documents(str(spec), settings(**changes), Counter()))


@pytest.mark.parametrize("compression", COMPRESS)
@pytest.mark.parametrize("kind", [".txt", ".jsonl", ".json"])
def test_each_kind_and_compression(kind: str, compression: str, tmp_path: Path) -> None:
    text = TEXT if kind == ".txt" else "\n".join(json.dumps({"text": d, "n": 1}) for d in DOCUMENTS)
    path = tmp_path / f"corpus{kind}{compression}"
    path.write_bytes(COMPRESS[compression](text.encode()))
    assert read(path) == DOCUMENTS
    meter = Meter()
    source = sources(str(path), settings())[0]
    assert list(source.read(Counter(), meter)) == DOCUMENTS
    assert meter.position() == source.size


def test_several_compressed_streams_in_a_file(tmp_path: Path) -> None:
    for name, compress in COMPRESS.items():
        path = tmp_path / f"two.txt{name}"
        path.write_bytes(compress(b"one\n\n") + compress(b"two"))
        assert read(path) == ["one", "two"], name


def test_folders_and_patterns_are_read_in_order(tmp_path: Path) -> None:
    for name in ["b.txt", "a/z.txt", "a/y.jsonl", "c.md", "a.txt"]:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"text": name}) if name.endswith("jsonl") else name)
    (tmp_path / "empty.txt").touch()
    assert read(tmp_path) == ["a.txt", "b.txt", "a/y.jsonl", "a/z.txt"]
    assert read(tmp_path / "*.txt", skip_bad=True) == ["a.txt", "b.txt"]
    assert read(tmp_path / "**" / "[yz].*") == ["a/y.jsonl", "a/z.txt"]
    assert read(tmp_path / "c.md") == ["c.md"]


def test_a_document_a_file(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    assert read(tmp_path, document_per_file=True) == ["\n".join(DOCUMENTS)]


def test_byte_order_mark_and_named_field(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfhello")
    (tmp_path / "b.jsonl").write_text('{"body": "x\\n\\ny \\ud83d z"}\n\n{"body": " "}\n')
    assert read(tmp_path, field="body") == ["hello", "x\ny � z"]


def test_a_long_document_goes_on_as_another(tmp_path: Path) -> None:
    line = "word " * 2000
    (tmp_path / "a.txt").write_text((line + "\n") * 1000)
    found = read(tmp_path)
    assert len(found) == 3
    assert all(len(document) < MAX_DOCUMENT + 2 * len(line) for document in found)
    assert "\n".join(found) == "\n".join([line.strip()] * 1000)


BAD: dict[str, tuple[str, bytes, str, dict[str, int]]] = {
    # File, content, sentence, and what skip_bad counts beside one good document
    "not UTF-8": (
        "a.txt",
        b"good\n\nb\xffd\n",
        r"a\.txt, line 3 is not UTF-8 \(byte 0xff at 2\)",
        {"line that is not UTF-8": 1},
    ),
    "NUL late": (
        "a.txt",
        b"good\n\n" + b"x\n" * 2**20 + b"\n\0\n",
        r"line 1048580 holds a NUL",
        {"line with NUL bytes": 1},
    ),
    "broken record": (
        "a.jsonl",
        b'{"text": "good"}\n{"text": "ba',
        r"a\.jsonl, line 2 is not one whole JSON",
        {"broken JSON line": 1},
    ),
    "deep record": (
        "a.jsonl",
        b'{"text": "good"}\n' + b"[" * 10**5,
        r"line 2 is not one whole JSON",
        {"broken JSON line": 1},
    ),
    "a list": (
        "a.jsonl",
        b'{"text": "good"}\n[1]',
        r"line 2 has no field 'text'",
        {"record without 'text'": 1},
    ),
    "other field": (
        "a.jsonl",
        b'{"text": "good"}\n{"body": "x"}',
        r"line 2 has no field 'text' \(it has 'body'\)",
        {"record without 'text'": 1},
    ),
    "number": (
        "a.jsonl",
        b'{"text": "good"}\n{"text": 5}',
        r"line 2: the field 'text' is not text but int",
        {"'text' is not text": 1},
    ),
    "a long line": (
        "a.txt",
        b"good\n\n" + b"x" * 50_000_000 + b"\n",
        r"line 3 is over 16 MB",
        {"line over 16 MB": 1},
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_lines_are_named_or_counted(case: str, tmp_path: Path) -> None:
    name, content, sentence, counted = BAD[case]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=sentence) as caught:
        read(path)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)
    skipped: Counter[str] = Counter()
    found = list(documents(str(path), settings(skip_bad=True), skipped))
    assert found[0] == "good"
    assert skipped == counted


def test_a_pipe_is_read_once_only(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.txt"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match=r"pipe\.txt can be read only once"):
        read(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("one\n\ntwo\n",))
    writer.start()
    found = list(documents(str(pipe), settings(tokenizer_file=tmp_path / "vocab.txt"), Counter()))
    writer.join()
    assert found == ["one", "two"]


@pytest.mark.parametrize("compression", [".gz", ".xz", ".zst"])
@pytest.mark.parametrize("damage", ["cut", "flipped", "other"])
def test_damaged_compressed_files(compression: str, damage: str, tmp_path: Path) -> None:
    rng = random.Random(0)
    text = "\n".join(str(rng.random()) for _ in range(30_000)).encode()
    content = bytearray(COMPRESS[compression](text))
    if damage == "cut":
        del content[len(content) // 2 :]
    elif damage == "flipped":
        content[len(content) // 2] ^= 0x55
    else:
        content = bytearray(bz2.compress(text))
    path = tmp_path / f"a.txt{compression}"
    path.write_bytes(content)
    with pytest.raises(UserError, match="is damaged or cut off after line") as caught:
        read(path)
    assert caught.value.exit_code == 2
    skipped: Counter[str] = Counter()
    (tmp_path / "b.txt").write_text("good")
    found = list(documents(str(tmp_path), settings(skip_bad=True), skipped))
    assert found[-1] == "good"
    assert skipped["rest of a damaged file"] == 1


@pytest.mark.parametrize(
    ("spec", "sentence"),
    [
        ("nothing.txt", r"there is no file .*nothing\.txt"),
        ("*.none", "no file matches the pattern"),
        ("empty.txt", r"empty\.txt holds no text"),
        ("blank.txt", r"blank\.txt holds no text"),
        ("folder", "the folder .* holds no"),
        ("hollow", "hollow holds no text"),
        ("binary.txt", r"binary\.txt is a binary file"),
        ("tfds:no_such_data_set", "no_such_data_set"),
        ("tfds:#", "is not of the form"),
    ],
)
def test_nothing_to_read(spec: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    (tmp_path / "blank.txt").write_text(" \n\n \t\n")
    (tmp_path / "folder").mkdir()
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow" / "x.txt").touch()
    (tmp_path / "binary.txt").write_bytes(b"text\n\x7fELF\x02\x01\0\0\xff\xfe")
    with pytest.raises(UserError, match=sentence) as caught:
        read(spec if spec.startswith("tfds") else tmp_path / spec)
    assert caught.value.exit_code == 2
    assert "\n" not in str(caught.value)


def test_memory_stays_bounded_whatever_the_file(tmp_path: Path) -> None:
    path = tmp_path / "long.txt.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(300):
            file.write(b"x" * 2**20)
        file.write(b"\nafter\n")
    tracemalloc.start()
    try:
        assert read(path, skip_bad=True) == ["after"]
        assert tracemalloc.get_traced_memory()[1] < 4 * MAX_LINE
    finally:
        tracemalloc.stop()


@given(st.lists(st.text(st.characters(exclude_characters="\0")), max_size=8))
def test_any_json_text_comes_through(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    path = tmp_path_factory.mktemp("json") / "a.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    expected = ["\n".join(line.strip() for line in text.split("\n") if line.strip()) for text in texts]
    expected = [e.encode("utf-16", "surrogatepass").decode("utf-16", "replace") for e in expected if e]
    if expected:
        assert read(path) == expected


def test_tfds_is_read_without_tensorflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tensorflow_datasets as tfds

    class Sayings(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self) -> object:
            return tfds.core.DatasetInfo(
                builder=self, features=tfds.features.FeaturesDict({"body": tfds.features.Text()})
            )

        def _split_generators(self, manager: object) -> object:
            return {"train": [(0, {"body": "one\n\nmore"}), (1, {"body": "two é"})]}

        def _generate_examples(self) -> object:
            return iter(())  # the base class wants one; the split above lists its examples itself

    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    Sayings(data_dir=tmp_path, file_format="array_record").download_and_prepare()
    name = "sayings/1.0.0"
    assert read(f"tfds:{name}:train#body") == ["one\nmore", "two é"]
    with pytest.raises(UserError, match=r"has no split 'test': it has train"):
        read(f"tfds:{name}:test#body")
    with pytest.raises(UserError, match=r"has no field 'text': it has 'body'"):
        read(f"tfds:{name}:train")


def test_docstrings_are_found_without_running_anything(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(
        '"""The module has its say."""\nimport os\nos._exit(3)\n'
        "class A:\n    '''A class says a thing.'''\n    def f(self):\n        '''Inside a method,\n\n        more.'''\n"
        "if os:\n    async def g():\n        '''Under a condition here.'''\nelse:\n    x = '''no docstring at all'''\n"
        'def h():\n    "\\ud800 half a pair is here"\n'
    )
    unread: Counter[str] = Counter()
    assert list(docstrings._docstrings(path, unread)) == [
        "The module has its say.",
        "A class says a thing.",
        "Inside a method,\n\n        more.",
        "Under a condition here.",
        "? half a pair is here",
    ]
    path.write_text('"""x"""\ndef (:')
    assert list(docstrings._docstrings(path, unread)) == []
    assert unread == {"source file that does not parse": 1}


def test_a_docstring_becomes_paragraphs() -> None:
    text = """Short title.

    A paragraph that is
    wrapped by hand.
    -----
    Args:
      x: the first of them
        goes on here.
      y: another
    * a point
    * one more
    >>> f(1)
    2
    """
    assert docstrings.as_document(text).split("\n") == [
        "Short title.",
        "A paragraph that is wrapped by hand.",
        "Args:",
        "x: the first of them",
        "goes on here.",
        "y: another",
        "* a point",
        "* one more",
        ">>> f(1)",
        "2",
    ]


@pytest.mark.slow
def test_the_embedded_corpus() -> None:
    found = read("docstrings")
    assert len(set(found)) == len(found)
    assert 3_000_000 < sum(map(len, found)) < 16_000_000
    assert all("\n\n" not in document and document.strip() == document for document in found)
    assert list(docstrings._files()) == list(docstrings._files())
