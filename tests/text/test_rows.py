import json
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from electra_jax.errors import MachineError, UserError
from electra_jax.text import rows as rows_module
from electra_jax.text.prepare import prepare
from electra_jax.text.rows import META, RowsWriter, open_data_set
from tests.text.conftest import settings


@pytest.fixture(scope="module")
def made(english_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "set"
    prepare(settings(corpus=(str(english_file),), out=out, length=32, valid_share=0.1))
    return out


@pytest.fixture
def data_set(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "set")


def test_what_is_written_is_read(data_set: Path) -> None:
    found = open_data_set(data_set)
    meta = json.loads((data_set / META).read_text())
    assert found.meta == meta
    assert (found.length, found.vocab_size) == (32, 600)
    assert found.special._asdict() == meta["tokenizer"]["special"]
    assert len(found.train) == meta["counts"]["train"]["rows"]
    assert len(found.valid) == meta["counts"]["valid"]["rows"] > 0
    assert found.tokenizer_folder.is_dir()
    rows = found.train.take(np.arange(len(found.train)))
    assert rows.dtype == np.uint16
    counts = Counter(rows.reshape(-1).tolist())
    assert found.unigram.tolist() == [0 if i in found.special else counts[i] for i in range(600)]
    assert meta["fill"] == pytest.approx(
        np.mean(np.concatenate([rows, found.valid.take(np.arange(len(found.valid)))]) != 0)
    )
    assert set(meta["files"]) == {
        p.relative_to(data_set).as_posix() for p in data_set.rglob("*") if p.is_file() and p.name != META
    }


def test_every_flipped_byte_is_found(data_set: Path) -> None:
    files = sorted(p for p in data_set.rglob("*") if p.is_file() and p.name != META)
    assert len(files) == 5
    for file in files:
        intact = file.read_bytes()
        for place in (0, len(intact) // 2, len(intact) - 1):
            damaged = bytearray(intact)
            damaged[place] ^= 1
            file.write_bytes(damaged)
            with pytest.raises(MachineError, match=rf"{file.name} is damaged.*copy the data set again") as caught:
                open_data_set(data_set, verify=True)
            assert caught.value.exit_code == 1
        file.write_bytes(intact)
    assert open_data_set(data_set, verify=True)


def test_missing_and_cut_files(data_set: Path) -> None:
    shard = data_set / "train-00000.npy"
    content = shard.read_bytes()
    shard.write_bytes(content[:-7])
    with pytest.raises(MachineError, match=r"train-00000\.npy holds .* bytes where"):
        open_data_set(data_set, verify=False)
    shard.unlink()
    with pytest.raises(MachineError, match=r"train-00000\.npy is missing"):
        open_data_set(data_set, verify=False)


def test_meta_is_checked_too(data_set: Path) -> None:
    meta = data_set / META
    content = meta.read_text()
    meta.write_text(content.replace('"length": 32', '"length": 64'))
    with pytest.raises(MachineError, match="does not match its own checksum"):
        open_data_set(data_set)
    meta.write_text(content[: len(content) // 2])
    with pytest.raises(MachineError, match="cannot be read"):
        open_data_set(data_set)
    meta.write_text(content.replace('"format": 1', '"format": 99'))
    with pytest.raises(UserError, match="not a data set of format"):
        open_data_set(data_set)
    meta.unlink()
    with pytest.raises(UserError, match=r"is not a data set, for it has no meta\.json") as caught:
        open_data_set(data_set)
    assert caught.value.exit_code == 2


def test_the_fingerprint_is_of_the_rows(data_set: Path, english_file: Path, tmp_path: Path) -> None:
    same, other = tmp_path / "same", tmp_path / "other"
    prepare(settings(corpus=(str(english_file),), out=same, length=32, valid_share=0.1))
    prepare(settings(corpus=(str(english_file),), out=other, length=33, valid_share=0.1))
    fingerprints = [open_data_set(folder).fingerprint for folder in (data_set, same, other)]
    assert fingerprints[0] == fingerprints[1] != fingerprints[2]


@hypothesis_settings(max_examples=25, deadline=None)  # every shard is flushed to the disk
@given(st.lists(st.integers(0, 40), max_size=6), st.sampled_from([600, 70_000]), st.integers(1, 5))
def test_shards_are_one_array(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], vocab: int, rows_a_shard: int
) -> None:
    folder = tmp_path_factory.mktemp("shards")
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, vocab, (size, 8)).astype(np.uint32) for size in sizes]
    before = rows_module.SHARD_BYTES
    rows_module.SHARD_BYTES = rows_a_shard * 8 * 4
    try:
        with RowsWriter(folder, "train", 8, vocab) as writer:
            for part in parts:
                writer.add(part)
    finally:
        rows_module.SHARD_BYTES = before
    shards = [np.load(folder / name, mmap_mode="r", allow_pickle=False) for name, _ in writer.files]
    assert [len(shard) for shard in shards] == [count for _, count in writer.files]
    whole = np.concatenate([np.zeros((0, 8), np.uint32), *parts])
    if len(whole):
        np.testing.assert_array_equal(np.concatenate(shards), whole)
        assert shards[0].dtype == (np.uint16 if vocab < 65536 else np.uint32)
        view = rows_module.Rows(shards, 8, shards[0].dtype)
        order = rng.integers(0, len(whole), 50)
        np.testing.assert_array_equal(view.take(order), whole[order])
    else:
        assert not shards
