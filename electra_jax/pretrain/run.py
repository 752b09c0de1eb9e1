"""Wires one pre-training run: data, mesh, model, state, the loop and its hooks."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from electra_jax.config import PretrainConfig, SpecialTokens
from electra_jax.model.attention import describe_attention
from electra_jax.model.electra import Electra, create_model, create_params
from electra_jax.model.flops import train_step_flops
from electra_jax.networks import networks_of
from electra_jax.pretrain.evaluation import evaluate, make_eval_step
from electra_jax.pretrain.folder import claimed
from electra_jax.pretrain.objectives import OBJECTIVES
from electra_jax.pretrain.step import TrainStep, make_train_step
from electra_jax.pretrain.warm_start import GivenWeights, begin_with, read_weights
from electra_jax.text.loader import batches, fixed_batches
from electra_jax.text.rows import DataSet, open_data_set
from electra_jax.training import sharding
from electra_jax.training.checkpoint import Checkpoints, saved_steps
from electra_jax.training.loop import Clock, train
from electra_jax.training.metrics import MetricsLog, read_metrics
from electra_jax.training.optimizer import make_optimizer, make_schedule
from electra_jax.training.processes import is_first, make_agreement, wait_for_all
from electra_jax.training.profiling import profiled
from electra_jax.training.progress import ProgressLine
from electra_jax.training.state import TrainState, create_state
from electra_jax.training.throughput import peak_flops


def pretrain(config: PretrainConfig, data: Path, workdir: Path, console: Console) -> dict[str, Any]:
    """Trains to the last step, resuming where the workdir holds a checkpoint; returns the last line of metrics.

    The order on start: resume from the newest whole checkpoint, else begin with the weights of `train.init_from`,
    else from scratch.
    Raises UserError for data, settings and a workdir that do not go together, before anything is compiled or
    written; MachineError for faults of the machine; Interrupted on SIGTERM and Ctrl-C.
    """
    data_set = open_data_set(data, verify=config.runtime.verify_data and is_first())
    mesh = sharding.create_mesh(config.runtime.mesh, config.rows_at_once)
    model = create_model_on(config, mesh)
    attention = describe_attention(model.networks, model.kernels, [config.data.length])
    begun = bool(saved_steps(workdir / "checkpoints"))
    weights = None
    if config.train.init_from is not None and not begun:
        weights = read_weights(config, data_set, console.print)
    wait_for_all("everything is read and nothing written")
    with claimed(workdir, config, data_set, begun) as config, jax.set_mesh(mesh):
        console.print(attention, highlight=False, soft_wrap=True)
        return Run(config, data_set, workdir, mesh, console, weights).train()


def create_model_on(config: PretrainConfig, mesh: Mesh) -> Electra:
    """The run's model, computed as suits the devices of this mesh, which need not be this process's."""
    return create_model(config, mesh.devices.flat[0].platform, sharding.HEADS)


def plan_state(config: PretrainConfig, mesh: Mesh) -> tuple[Callable[[], TrainState], TrainState]:
    """The function that draws a fresh state, and that state's shapes with the place of every leaf on the mesh."""
    tx = make_optimizer(config.optimizer, config.train.steps)

    def fresh() -> TrainState:
        params = create_params(config, jax.random.key(config.train.seed))
        return create_state(params, tx, OBJECTIVES[config.objective.name].train_metrics)

    shapes = jax.eval_shape(fresh)
    places = sharding.state_shardings(shapes, mesh)
    return fresh, jax.tree.map(lambda s, at: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=at), shapes, places)


def make_step(config: PretrainConfig, mesh: Mesh, special: SpecialTokens) -> TrainStep:
    """The train step of these settings on this mesh."""
    tx = make_optimizer(config.optimizer, config.train.steps)
    return make_train_step(config, create_model_on(config, mesh), tx, special)


def lower_step(
    step_fn: TrainStep, config: PretrainConfig, state: TrainState, mesh: Mesh, dtype: np.dtype
) -> jax.stages.Lowered:
    """The step, ready to be compiled for a state on the mesh, or for that state's shapes, and for rows of `dtype`."""
    rows = (config.train.batch_size, config.data.length)
    batch = jax.ShapeDtypeStruct(rows, dtype, sharding=sharding.batch_sharding(mesh))
    places = jax.tree.map(lambda leaf: leaf.sharding, state)
    return jax.jit(step_fn, donate_argnums=0, out_shardings=(places, None)).lower(state, batch)


class Run:
    """One process's part in a run; its methods are the loop's hooks."""

    def __init__(
        self,
        config: PretrainConfig,
        data_set: DataSet,
        workdir: Path,
        mesh: Mesh,
        console: Console,
        weights: GivenWeights | None,
    ):
        self.config, self.data_set, self.workdir, self.mesh = config, data_set, workdir, mesh
        metric, best_is_high = OBJECTIVES[config.objective.name].best
        keep = config.runtime.keep_last
        self.checkpoints = Checkpoints(workdir / "checkpoints", keep, metric, best_is_high)
        self.clock, state = self._start(console, weights)
        self.state = state
        self.log = None
        if is_first():
            self.log = MetricsLog(workdir, self.clock.step, config.runtime.tensorboard, console.print)
        self.progress = ProgressLine(console, self.clock.step, config.train.steps)
        eval_step = make_eval_step(config.objective, create_model_on(config, mesh), data_set.special)
        self.eval_step = jax.jit(eval_step, out_shardings=sharding.everywhere(mesh))
        self.schedule = make_schedule(config.optimizer, config.train.steps)
        self.line: dict[str, Any] = {}
        self.last = dataclasses.replace(self.clock)
        peak = config.runtime.peak_tflops
        per_device = peak * 1e12 if peak else peak_flops(jax.local_devices()[0], config.runtime.dtype)
        self.peak = per_device * mesh.size if per_device else None

    def train(self) -> dict[str, Any]:
        """Runs the remaining steps."""
        data, runtime = self.data_set, self.config.runtime
        recorded = runtime.profile if is_first() else 0
        step_fn = make_step(self.config, self.mesh, data.special)
        try:
            # Compiled before the clock starts.
            compiled = lower_step(step_fn, self.config, self.state, self.mesh, data.train.dtype).compile()
            with profiled(compiled, recorded, self.workdir / "profile") as step_fn:
                batches, bad = self._train_batches(), runtime.max_bad_steps
                train(self.state, step_fn, batches, self.clock, self, bad, make_agreement())
        except BaseException:
            self.checkpoints.abandon()
            raise
        finally:
            self.progress.close()
            if self.log is not None:
                self.log.close()
        self.checkpoints.close()
        return self.line or read_metrics(self.workdir)[-1]

    def observe(self, clock: Clock, out: dict[str, Any]) -> None:
        if clock.step % self.config.runtime.log_every == 0 and not self.due(clock.step):
            self._write(clock, out)
        self.out = out

    def due(self, step: int) -> bool:
        runtime, last = self.config.runtime, step == self.config.train.steps
        return step % runtime.eval_every == 0 or step % runtime.save_every == 0 or last

    def act(self, clock: Clock, state: TrainState) -> None:
        runtime, step = self.config.runtime, clock.step
        last = step == self.config.train.steps
        metrics: dict[str, float] = {}
        if step % runtime.eval_every == 0 or last:
            unigram = self.data_set.unigram
            metrics = evaluate(self.eval_step, state.params, self._eval_batches(), unigram)
        self._write(clock, self.out, metrics)
        if step % runtime.save_every == 0 and not last:
            self._save(clock, state, metrics)
        self.last = dataclasses.replace(clock)

    def save(self, clock: Clock, state: TrainState, stopped: bool) -> None:
        metrics = {k.removeprefix("eval/"): v for k, v in self.line.items() if k.startswith("eval/")}
        self._save(clock, state, metrics if self.line.get("step") == clock.step else {})
        self.checkpoints.wait()

    def _save(self, clock: Clock, state: TrainState, metrics: dict[str, float]) -> None:
        meta = {"step": clock.step, "tokens": clock.tokens, "seconds": clock.seconds}
        finite = {key: value for key, value in metrics.items() if value is not None and math.isfinite(value)}
        metric, _ = OBJECTIVES[self.config.objective.name].best
        self.checkpoints.save(clock.step, state, meta, finite if metric in finite else None)

    def _start(self, console: Console, weights: GivenWeights | None) -> tuple[Clock, TrainState]:
        """Resumes, or begins with the given weights, or draws fresh ones; every leaf lies where the rule puts it."""
        fresh, wanted = plan_state(self.config, self.mesh)
        restored = self.checkpoints.restore_newest(wanted, console.print)
        if restored is None:
            places = jax.tree.map(lambda leaf: leaf.sharding, wanted)
            state = jax.jit(fresh, out_shardings=places)()
            if self.config.train.init_from is None:
                console.print(f"starting from scratch in {self.workdir}", highlight=False, soft_wrap=True)
                return Clock(), state
            # Not there yet where the checkpoints that seemed to be there were never finished.
            weights = weights or read_weights(self.config, self.data_set, console.print)
            console.print(f"starting in {self.workdir} from {weights.story}", highlight=False, soft_wrap=True)
            drawn = jax.jit(lambda params: params, out_shardings=sharding.everywhere(self.mesh))(state.params)
            params = begin_with(weights, drawn, networks_of(self.config))
            return Clock(), state._replace(params=sharding.place_state(params, places.params))
        console.print(f"resuming {self.workdir} at step {restored.step:,}", highlight=False, soft_wrap=True)
        meta = restored.meta
        return Clock(restored.step, meta["tokens"], meta["seconds"]), restored.state

    def _train_batches(self) -> Iterator[jax.Array]:
        config, size = self.config, self.config.train.batch_size
        share = sharding.local_rows(self.mesh, size)
        seed, first, steps = config.train.seed, self.clock.step, config.train.steps
        rows = batches(self.data_set.train, size, seed, first, steps, share, config.runtime.prefetch)
        return (sharding.place_batch(batch, self.mesh, size) for batch in rows)

    def _eval_batches(self) -> Iterator[tuple[jax.Array, jax.Array]]:
        size = self.config.train.batch_size // self.config.runtime.micro_batches  # what is known to fit
        share = sharding.local_rows(self.mesh, size)
        for index, ids in enumerate(fixed_batches(self.data_set.valid, size, self.config.runtime.eval_rows, share)):
            numbers = (index * size + share).astype(np.int32)
            yield sharding.place_batch((ids, numbers), self.mesh, size)

    def _write(self, clock: Clock, out: dict[str, Any], metrics: dict[str, float] | None = None) -> None:
        """One line of metrics, in the log and on the progress line."""
        last, passed = self.last, clock.seconds - self.last.seconds
        rate = (clock.step - last.step) * train_step_flops(self.config) / passed if passed > 0 else None
        # An update that is skipped does not move the schedule.
        updates = max(1, clock.step - int(out["skipped"]))
        train_metrics = {f"train/{k}": float(v[0] / v[1]) if v[1] else None for k, v in out["window"].items()}
        self.line = {
            "step": clock.step,
            "tokens": clock.tokens,
            "seconds": round(clock.seconds, 3),
            **train_metrics,
            "train/learning_rate": self.config.optimizer.learning_rate * float(self.schedule(updates - 1)),
            "train/skipped_steps": int(out["skipped"]),
            **{f"eval/{k}": v for k, v in (metrics or {}).items()},
            "tokens_per_second": (clock.tokens - last.tokens) / passed if passed > 0 else None,
            "waiting": (clock.waited - last.waited) / passed if passed > 0 else None,
            "mfu": rate / self.peak if rate and self.peak else None,
        }
        self.last = dataclasses.replace(clock)
        if self.log is not None:
            self.log.write(self.line)
        self.shown = {**getattr(self, "shown", {}), **self.line}
        self.progress.show(self.shown)
