import contextlib
import json
import shutil
import threading
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from electra_jax.errors import MachineError
from electra_jax.training.checkpoint import SEAL, Checkpoints, remove_unfinished
from electra_jax.training.state import create_state

TX = optax.adam(1e-3)


def state_at(step):
    state = create_state({"kernel": jnp.full((8, 8), float(step))}, TX, ("loss",))
    return state._replace(step=jnp.asarray(step))


def shapes():
    here = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), state_at(0))


def save_all(folder, values, best_is_high, keep_last=2):
    checkpoints = Checkpoints(folder, keep_last, "score", best_is_high)
    for step, value in enumerate(values, 1):
        metrics = None if value is None else {"score": value, "other": -value}
        checkpoints.save(step, state_at(step), {"step": step}, metrics)
    checkpoints.close()
    return checkpoints.steps()


@pytest.mark.parametrize(
    ("values", "best_is_high", "kept"),
    [
        ([0.5, 0.9, 0.6, 0.7, 0.8], True, [2, 4, 5]),
        ([0.5, 0.1, 0.6, 0.7, 0.8], False, [2, 4, 5]),
        ([0.5, 0.6, 0.7, 0.8, 0.9], True, [4, 5]),
        ([0.5, 0.9, None, 0.7, None], True, [2, 4, 5]),
        ([None] * 5, True, [4, 5]),
    ],
)
def test_the_last_and_the_best_are_kept(values, best_is_high, kept, tmp_path):
    assert save_all(tmp_path / "checkpoints", values, best_is_high) == kept


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    folder = tmp_path_factory.mktemp("three") / "run" / "checkpoints"
    assert save_all(folder, [0.1, 0.2, 0.3], True, keep_last=3) == [1, 2, 3]
    return folder


def test_what_was_saved_comes_back(three):
    checkpoints = Checkpoints(three, 3, "score")
    restored = checkpoints.restore_newest(shapes(), pytest.fail)
    checkpoints.close()
    assert (restored.step, restored.meta) == (3, {"step": 3})
    for ours, theirs in zip(jax.tree.leaves(restored.state), jax.tree.leaves(state_at(3)), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize(("step", "damage"), [(3, "emptied"), (3, "garbled"), (3, "gone"), (2, "garbled")])
def test_whichever_file_is_damaged_a_whole_checkpoint_is_used(step, damage, three, tmp_path):
    names = [SEAL, *json.loads((three / str(step) / SEAL).read_text())]
    assert len(names) > 6
    for number, name in enumerate(names):
        folder = tmp_path / str(number) / "checkpoints"
        shutil.copytree(three, folder)
        path: Path = folder / str(step) / name
        if damage == "gone":
            path.unlink()
        else:
            path.write_bytes(b"" if damage == "emptied" else b"{" + path.read_bytes()[1:] + b"?")
        told: list[str] = []
        checkpoints = Checkpoints(folder, 3, "score")
        restored = checkpoints.restore_newest(shapes(), told.append)
        assert restored.step == (2 if step == 3 else 3), name
        assert float(restored.state.params["kernel"][0, 0]) == restored.step
        assert len(told) == 1, name
        assert f"checkpoint {step} is damaged" in told[0]
        assert (folder.parent / "damaged" / str(step)).is_dir()
        checkpoints.save(4, state_at(4), {"step": 4}, {"score": 0.4})
        checkpoints.close()
        assert checkpoints.steps()[-1] == 4


def test_all_damaged_is_an_error_and_none_is_none(three, tmp_path):
    shutil.copytree(three, tmp_path / "checkpoints")
    for step in (1, 2, 3):
        (tmp_path / "checkpoints" / str(step) / "meta" / "metadata").write_bytes(b"")
    with pytest.raises(MachineError, match="every checkpoint in"):
        Checkpoints(tmp_path / "checkpoints", 3, "score").restore_newest(shapes(), lambda told: None)
    assert Checkpoints(tmp_path / "empty").restore_newest(shapes(), pytest.fail) is None


def test_what_a_failed_save_still_writes_is_removed_too(tmp_path):
    """Orbax's other writes end after the one that failed, and make their folders anew where they are gone."""
    unfinished = tmp_path / "60.orbax-checkpoint-tmp" / "params"
    (tmp_path / "40").mkdir()
    unfinished.mkdir(parents=True)

    def straggle():
        until = time.monotonic() + 0.3
        while time.monotonic() < until:
            with contextlib.suppress(OSError):
                unfinished.mkdir(parents=True, exist_ok=True)
                (unfinished / str(time.monotonic_ns())).write_bytes(b"left")

    straggler = threading.Thread(target=straggle)
    straggler.start()
    remove_unfinished(tmp_path)
    straggler.join()
    assert [path.name for path in tmp_path.iterdir()] == ["40"]
