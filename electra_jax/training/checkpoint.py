"""Checkpoints: the only file that knows orbax.

A checkpoint is a folder that orbax renames into place once complete, the last of its files a seal: the SHA-256 of
each other one. One without a seal was interrupted; one whose files differ from its seal is damaged.
"""

import json
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cached_property
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from absl import logging as absl_logging
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN, PreservationPolicy

from electra_jax.errors import MachineError, UserError
from electra_jax.files import sha256_of, write_json
from electra_jax.training.processes import is_first, wait_for_all
from electra_jax.training.state import TrainState

SEAL = "seal.json"
# Left out of the seal: orbax writes the time of the rename into it later, and nothing is restored from it.
UNSEALED = "_CHECKPOINT_METADATA"
UNFINISHED = "it was never finished"
# At most so many times, twenty a second, the remains of a failed save are looked for and removed.
REMOVALS = 100


class Restored(NamedTuple):
    """A state and what was saved beside it."""

    step: int
    state: TrainState
    meta: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run: written asynchronously, the last few and the best kept."""

    def __init__(self, folder: Path, keep_last: int = 2, best_metric: str | None = None, best_is_high: bool = True):
        _quieten()
        self.folder = folder.absolute()
        self._saving: int | None = None
        self._saved: int | None = None
        policies: list[PreservationPolicy] = [LatestN(keep_last)]
        score = None
        if best_metric is not None:
            score = itemgetter(best_metric)
            best = BestN(get_metric_fn=score, n=1, reverse=not best_is_high)
            best.keep_checkpoints_without_metrics = False
            policies.append(best)
        options = ocp.CheckpointManagerOptions(
            preservation_policy=AnyPreservationPolicy(policies),
            best_fn=score,  # orbax writes the metrics only with it
            cleanup_tmp_directories=True,
            enable_async_checkpointing=True,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
        )
        self._options = options

    @cached_property
    def _manager(self) -> ocp.CheckpointManager:
        # Opened once damaged checkpoints are set aside: orbax reads the metrics of each.
        return ocp.CheckpointManager(self.folder, options=self._options)

    def steps(self) -> list[int]:
        """The steps saved, oldest first."""
        return saved_steps(self.folder)

    def save(self, step: int, state: TrainState, meta: dict[str, Any], metrics: dict[str, float] | None) -> None:
        """Begins to write; returns once the state may be replaced. The step saved last is not saved again.

        Raises MachineError where this or the save before it could not be written.
        """
        self.wait()
        if step == self._saved:
            return
        self._saving = self._saved = step
        items = {
            "params": ocp.args.StandardSave(state.params),
            "training": ocp.args.StandardSave(state._replace(params=None)._asdict()),
            "meta": ocp.args.JsonSave(meta),
        }
        try:
            self._manager.save(step, args=ocp.args.Composite(**items), metrics=metrics)
        except Exception as error:
            raise self._failure(error) from error

    def wait(self) -> None:
        """Returns when nothing is being written. Raises MachineError where the last save failed."""
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failure(error) from error
        self._saving = None

    def abandon(self) -> None:
        """Lets a save under way end, however it ends: an error is already being told."""
        with suppress(MachineError):
            self.close()

    def close(self) -> None:
        """Waits and lets go of orbax's threads."""
        self.wait()
        self._manager.close()

    def restore_newest(self, shapes: TrainState, report: Callable[[str], None]) -> Restored | None:
        """The newest whole checkpoint, or None where there is none. Damaged ones are reported and set aside.

        To be called before anything is saved.

        `shapes` is a TrainState of ShapeDtypeStructs that carry shardings.
        Raises MachineError where checkpoints exist but all are damaged.
        """
        faults = {}
        if is_first():
            faults = {step: find_fault(self.folder / str(step)) for step in self.steps()}
            for step, fault in faults.items():
                if fault is not None:
                    self._set_aside(step, fault, report)
        wait_for_all("the checkpoints are looked through")
        whole = self.steps()
        if whole:
            return self._restore(whole[-1], shapes)
        if set(faults.values()) - {UNFINISHED}:
            raise MachineError(
                f"every checkpoint in {self.folder} is damaged (see {self._aside()}): start a new workdir, or remove "
                "the run to begin it again"
            )
        return None

    def _seal(self) -> None:
        """Called by orbax's thread when every file is written, just before the rename into place."""
        if self._saving is None or not is_first():
            return
        for folder in self.folder.glob(f"{self._saving}.orbax-checkpoint-tmp*"):
            seal(folder)

    def _restore(self, step: int, shapes: TrainState) -> Restored:
        rest = shapes._replace(params=None)._asdict()
        args = ocp.args.Composite(
            params=ocp.args.StandardRestore(shapes.params),
            training=ocp.args.StandardRestore(rest),
            meta=ocp.args.JsonRestore(),
        )
        try:
            items = self._manager.restore(step, args=args)
        except ValueError as error:
            raise UserError(
                f"checkpoint {self.folder / str(step)} holds another model than the settings: {_first_line(error)}"
            ) from error
        self._saved = step
        state = TrainState(**{**items["training"], "params": items["params"]})
        return Restored(step, state, items["meta"])

    def _set_aside(self, step: int, fault: str, report: Callable[[str], None]) -> None:
        folder = self.folder / str(step)
        target = self._aside() / str(step)
        target.parent.mkdir(exist_ok=True)
        shutil.rmtree(target, ignore_errors=True)
        os.rename(folder, target)
        report(f"checkpoint {step} is damaged ({fault}); it is now in {target}, and no longer used")

    def _aside(self) -> Path:
        return self.folder.parent / "damaged"

    def _failure(self, error: Exception) -> MachineError:
        step, self._saving = self._saving, None
        remove_unfinished(self.folder)
        reason = _reason(error)
        intact = self.steps()
        after = f"; the checkpoint of step {intact[-1]} is intact" if intact else ""
        return MachineError(f"the checkpoint of step {step} could not be written to {self.folder}: {reason}{after}")


def write_params(folder: Path, step: int, params: Any) -> None:
    """Writes a checkpoint that holds parameters and nothing to go on training with, for `read_params`.

    Raises MachineError where the disk does not take it.
    """
    _quieten()
    try:
        with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as writer:
            writer.save((folder / str(step) / "params").absolute(), args=ocp.args.StandardSave(params))
    except Exception as error:
        raise MachineError(f"the parameters could not be written to {folder}: {_reason(error)}") from error
    seal(folder / str(step))


def seal(folder: Path) -> None:
    """Writes the checksum of every file of a checkpoint, once they are all there."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name != UNSEALED)
    write_json(folder / SEAL, {str(path.relative_to(folder)): sha256_of(path) for path in files})


def read_params(folder: Path, shapes: Any, step: int | None, report: Callable[[str], None]) -> tuple[int, Any]:
    """The parameters of one step, or of the newest whole checkpoint with damaged ones reported, and their step.

    They come to this process's first device, `shapes` being those of its tree.
    Changes nothing in the folder, which may be a run's that is training at this moment.
    Raises UserError where there is no such checkpoint, MachineError where the one named, or every one, is damaged.
    """
    _quieten()
    saved = saved_steps(folder)
    faults = {}
    for number in reversed(saved if step is None else [n for n in saved if n == step]):
        faults[number] = find_fault(folder / str(number))
        if faults[number] is None:
            for damaged, fault in faults.items():
                if fault not in (None, UNFINISHED):
                    report(f"checkpoint {folder / str(damaged)} is damaged ({fault}): the one of step {number} is used")
            return number, _read(folder / str(number) / "params", shapes)
    unusable = [f"{folder / str(number)}: {fault}" for number, fault in faults.items() if fault != UNFINISHED]
    if unusable:
        raise MachineError(f"no checkpoint can be used, for each is damaged ({'; '.join(unusable)})")
    if step is not None and saved:
        raise UserError(f"{folder} has no checkpoint of step {step}: choose among {', '.join(map(str, saved))}")
    raise UserError(f"{folder.parent} has no checkpoint yet: wait until the run has saved its first")


def saved_steps(folder: Path) -> list[int]:
    """The steps whose checkpoints a folder holds, whole or not, oldest first."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal())


def find_fault(folder: Path) -> str | None:
    """What is wrong with the checkpoint in a folder, or None."""
    try:
        seal = json.loads((folder / SEAL).read_text())
    except FileNotFoundError:
        return UNFINISHED
    except (OSError, ValueError) as error:
        return f"its seal cannot be read ({error})"
    for name, digest in seal.items():
        if not (folder / name).is_file():
            return f"{name} is missing"
        if sha256_of(folder / name) != digest:
            return f"{name} is not what was written"
    return None


def _read(folder: Path, shapes: Any) -> Any:
    here = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=here), shapes)
    with ocp.Checkpointer(ocp.StandardCheckpointHandler()) as reader:
        try:
            return reader.restore(folder.absolute(), args=ocp.args.StandardRestore(shapes))
        except ValueError as error:
            raise UserError(f"{folder} holds another model than its settings say: {_first_line(error)}") from error
        except OSError as error:
            raise MachineError(f"{folder} cannot be read ({_first_line(error)}): try again") from None


def _quieten() -> None:
    """Leaves the telling of errors to us: orbax logs each one, and the writes that a failed save leaves behind print
    "Event loop is closed" when they end, each with its traceback, or a warning where they had not begun."""
    absl_logging.set_verbosity(absl_logging.FATAL)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    warnings.filterwarnings("ignore", r"coroutine '.*write_fragment' was never awaited", RuntimeWarning)
    if getattr(sys.unraisablehook, "__module__", "") == __name__:
        return
    told = sys.unraisablehook

    def tell(unraisable: Any) -> None:
        if str(unraisable.exc_value) != "Event loop is closed":
            told(unraisable)

    sys.unraisablehook = tell


def remove_unfinished(folder: Path) -> None:
    """Removes what a failed save has written: again and again, because its other writes may still be under way."""
    quiet = 0
    for _ in range(REMOVALS):
        left = list(folder.glob("*.orbax-checkpoint-tmp*"))
        for path in left:
            shutil.rmtree(path, ignore_errors=True)
        quiet = 0 if left else quiet + 1
        if quiet == 3:
            return
        time.sleep(0.05)


def _reason(error: Exception) -> str:
    no_space = any(word in str(error).lower() for word in ("no space", "quota", "file too large"))
    return "no space left on the disk" if no_space else _first_line(error)


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
