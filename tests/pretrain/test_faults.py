"""Runs that meet what runs meet: damaged files, a full disk, NaN. Real processes, real files."""

import json
import resource
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from long_runs import LONG, assert_same_end, final_state, wait_for_step
from runs import electra_jax, prepare_args, pretrain_args, start, write_corpus

from electra_jax.config import read_config
from electra_jax.files import sha256_of
from electra_jax.pretrain.run import plan_state
from electra_jax.text.rows import _fingerprint
from electra_jax.training.checkpoint import Checkpoints
from electra_jax.training.metrics import read_metrics
from electra_jax.training.sharding import create_mesh


@pytest.mark.parametrize("damage", ["truncate", "flip"])
def test_damaged_newest_checkpoint_is_named_and_the_one_before_used(
    damage: str, data: Path, cache: dict[str, str], undisturbed: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    folder = run / "checkpoints" / "400"
    # The largest file of the parameters holds their values.
    file = max((f for f in (folder / "params").rglob("*") if f.is_file()), key=lambda f: f.stat().st_size)
    content = bytearray(file.read_bytes())
    if damage == "truncate":
        del content[len(content) // 2 :]
    else:
        content[len(content) // 2] ^= 1
    file.write_bytes(content)
    done = electra_jax(*pretrain_args(data, run, *LONG), check=True, **cache)
    said = " ".join(done.stdout.decode().split())
    assert f"checkpoint 400 is damaged ({file.relative_to(folder)} is not what was written)" in said
    assert "resuming" in said
    assert "at step 380" in said
    assert_same_end(run, undisturbed)


def test_every_checkpoint_damaged_is_said_and_nothing_lost(undisturbed: Path, data: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(undisturbed, run)
    for folder in (run / "checkpoints").iterdir():
        (folder / "meta" / "metadata").write_bytes(b"")
    done = electra_jax(*pretrain_args(data, run, *LONG))
    assert done.returncode == 1
    assert "every checkpoint" in done.stderr.decode()
    assert len(done.stderr.decode().strip().splitlines()) == 1
    assert len(list((run / "damaged").iterdir())) >= 2


def test_flipped_byte_in_a_shard_is_found_before_training(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    shard = copy / "train-00000.npy"
    content = bytearray(shard.read_bytes())
    content[-100] ^= 4
    shard.write_bytes(content)
    done = electra_jax(*pretrain_args(copy, tmp_path / "run"))
    assert done.returncode == 1
    assert "train-00000.npy" in done.stderr.decode()
    assert len(done.stderr.decode().strip().splitlines()) == 1
    assert not (tmp_path / "run").exists()


def test_nan_in_a_batch_skips_the_update_and_is_counted(data: Path, cache: dict[str, str], tmp_path: Path) -> None:
    poisoned = poison(data, tmp_path / "data", share=0.02)
    run = tmp_path / "run"
    electra_jax(*pretrain_args(poisoned, run), check=True, **cache)
    lines = read_metrics(run)
    assert 0 < lines[-1]["train/skipped_steps"] < lines[-1]["step"]
    state = final_state(run)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state))


def test_nan_in_every_batch_stops_the_run_with_its_state_saved(
    data: Path, cache: dict[str, str], tmp_path: Path
) -> None:
    poisoned = poison(data, tmp_path / "data", share=1.0)
    run = tmp_path / "run"
    done = electra_jax(*pretrain_args(poisoned, run, "--runtime.max-bad-steps", "7"), **cache)
    assert done.returncode == 1
    assert "NaN or infinite" in done.stderr.decode()
    assert len(done.stderr.decode().strip().splitlines()) == 1
    config = read_config(run / "config.json")
    mesh = create_mesh(config.runtime.mesh, config.train.batch_size, jax.devices()[:1])
    fresh, shapes = plan_state(config, mesh)
    first = jax.jit(fresh)()
    restored = Checkpoints(run / "checkpoints").restore_newest(shapes, pytest.fail)
    assert restored is not None
    assert 7 <= restored.step <= 8
    for saved in ("params", "opt_state"):
        ours, theirs = (jax.tree.leaves(getattr(state, saved)) for state in (restored.state, first))
        for mine, other in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(mine, other, atol=1e-7)


def test_second_process_on_the_same_workdir_is_refused(data: Path, cache: dict[str, str], tmp_path: Path) -> None:
    run = tmp_path / "run"
    first = start(*pretrain_args(data, run, "--train.steps", "100000"), **cache)
    wait_for_step(run, 5, first)
    second = electra_jax(*pretrain_args(data, run, "--train.steps", "100000"))
    assert first.poll() is None, "the first must go on undisturbed"
    first.terminate()
    first.communicate()
    assert second.returncode == 2
    assert f"another process (process {first.pid})" in second.stderr.decode()


def test_resuming_with_other_settings_shows_the_difference(undisturbed: Path, data: Path) -> None:
    done = electra_jax(*pretrain_args(data, undisturbed, *LONG, "--optimizer.learning-rate", "0.5"))
    assert done.returncode == 2
    assert "optimizer.learning_rate: 0.003 → 0.5" in done.stderr.decode()


def test_resuming_on_other_data_is_refused(undisturbed: Path, tmp_path: Path) -> None:
    other = write_corpus(tmp_path / "corpus.txt", seed=9)
    electra_jax(*prepare_args(other, tmp_path / "data"), check=True)
    done = electra_jax(*pretrain_args(tmp_path / "data", undisturbed, *LONG))
    assert done.returncode == 2
    assert "another data set" in done.stderr.decode()


def test_full_disk_ends_with_a_sentence_and_the_checkpoint_before_intact(
    data: Path, cache: dict[str, str], undisturbed: Path, small_disk: Path
) -> None:
    run, ballast = small_disk / "run", small_disk / "ballast"
    process = start(*pretrain_args(data, run, *LONG), **cache)
    wait_for_step(run, 60, process)
    fill(ballast)
    _, errors = process.communicate(timeout=120)
    assert_no_space(process.returncode, errors, run)
    ballast.unlink()
    electra_jax(*pretrain_args(data, run, *LONG), check=True, **cache)
    assert_same_end(run, undisturbed)


def test_files_that_may_not_grow_end_with_a_sentence_and_the_checkpoint_before_intact(
    data: Path, cache: dict[str, str], undisturbed: Path, tmp_path: Path
) -> None:
    # The twin of the test above for those who cannot mount: the system refuses every file above 20 kB.
    run = tmp_path / "run"
    process = start(*pretrain_args(data, run, *LONG), **cache)
    wait_for_step(run, 60, process)
    resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (20_000, 20_000))
    _, errors = process.communicate(timeout=120)
    assert_no_space(process.returncode, errors, run)
    electra_jax(*pretrain_args(data, run, *LONG), check=True, **cache)
    assert_same_end(run, undisturbed)


def assert_no_space(returncode: int, errors: bytes, run: Path) -> None:
    said = errors.decode()
    assert returncode == 1, said
    assert "no space left" in said
    assert len(said.strip().splitlines()) == 1
    assert Checkpoints(run / "checkpoints").steps()
    assert not list((run / "checkpoints").glob("*tmp*"))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own that can be filled."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("only root can mount a small file system; the test with a limit on file sizes stands in")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def fill(path: Path) -> None:
    """Leaves no byte."""
    with open(path, "wb", buffering=0) as file:
        for size in (2**20, 2**12, 1):
            try:
                while True:
                    file.write(b"\0" * size)
            except OSError:
                continue


def poison(data: Path, target: Path, share: float) -> Path:
    """A copy of a data set in which a share of the training rows holds an id that the vocabulary does not have."""
    shutil.copytree(data, target)
    rows = np.load(target / "train-00000.npy")
    count = max(1, round(share * len(rows)))
    rows[np.random.RandomState(0).permutation(len(rows))[:count], 5] = 60_000
    np.save(target / "train-00000.npy", rows)
    meta = json.loads((target / "meta.json").read_text())
    meta["files"]["train-00000.npy"]["sha256"] = sha256_of(target / "train-00000.npy")
    (target / "meta.json").write_text(json.dumps(meta | {"fingerprint": _fingerprint(meta)}))
    return target
