"""The members that train together: the loop's hooks around one compiled program."""

import math
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, UInt32
from rich.console import Console

from electra_jax.files import new_folder, write_json
from electra_jax.finetune.batching import Plan, collate, flatten, plan_batches
from electra_jax.finetune.config import FinetuneConfig, Member
from electra_jax.finetune.evaluation import answer_rows, measure, of_member
from electra_jax.finetune.folder import MEMBERS, TRAINING, read_progress, remove
from electra_jax.finetune.members import place_members
from electra_jax.finetune.results import MemberResult, best_of, figure, main_metric
from electra_jax.finetune.rows import TaskRows
from electra_jax.finetune.start import Start
from electra_jax.finetune.statistics import summarise
from electra_jax.finetune.step import answer_members, create_member_state, make_train_step
from electra_jax.model.sharing import Network
from electra_jax.training.checkpoint import Checkpoints
from electra_jax.training.loop import Clock, train
from electra_jax.training.optimizer import make_finetune_optimizer
from electra_jax.training.progress import ProgressLine
from electra_jax.training.state import TrainState

# A member whose last so many updates were all left out has diverged.
LAST_UPDATES = 10


class Program:
    """What all chunks have in common, compiled once for each number of members and row length."""

    def __init__(self, config: FinetuneConfig, start: Start, rows: TaskRows):
        self.config, self.start, self.rows = config, start, rows
        self.train_rows = flatten(rows.train, start.tokenizer.special)
        self.steps = len(self.plan(config.seeds[0]).bucket)  # of every seed
        direction = make_finetune_optimizer(
            config.optimizer(self.steps), self.steps, config.layer_decay, config.layer_decay_form
        )

        def fresh(seeds: UInt32[Array, " m"], encoder: Network | None) -> TrainState:
            return jax.vmap(partial(create_member_state, direction=direction))(start.params(seeds, encoder))

        step = make_train_step(start.model, config.task, start.tokenizer.special, direction)
        self._fresh, self.step = fresh, jax.jit(step, donate_argnums=2)

    def fresh(self, seeds: UInt32[Array, " m"], place: NamedSharding) -> TrainState:
        """Step 0 of the members of these seeds, each where it belongs."""
        # It runs once: compiled with less care it is there in half the time, and no slower.
        quick = {"xla_backend_optimization_level": 1}
        return jax.jit(self._fresh, out_shardings=place, compiler_options=quick)(seeds, self.start.encoder)

    def shapes(self, seeds: UInt32[Array, " m"], place: NamedSharding) -> TrainState:
        """`fresh`'s shapes and places."""
        shapes = jax.eval_shape(self._fresh, seeds, self.start.encoder)
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place), shapes)

    def plan(self, seed: int) -> Plan:
        """The batches of one seed's training."""
        lengths = self.train_rows.lengths[:-1]
        return plan_batches(lengths, self.rows.buckets, self.config.batch_size, self.config.epochs, seed)


class Chunk:
    """The members that train together; its methods are the loop's hooks."""

    def __init__(self, program: Program, members: list[Member], out: Path, console: Console):
        config = program.config
        self.program, self.config, self.start, self.members = program, config, program.start, members
        plans = {seed: program.plan(seed) for seed in {member.seed for member in members}}
        self.plans: list[Plan] = [plans[member.seed] for member in members]
        self.steps, evaluations = program.steps, config.evaluations
        self.evaluate_at = {math.ceil(self.steps * number / evaluations) for number in range(1, evaluations + 1)}
        self.seeds = jnp.array([member.seed for member in members], jnp.uint32)
        self.rates = jnp.array([member.learning_rate for member in members], jnp.float32)
        self.place = place_members(len(members))
        folder = out / TRAINING
        named = [member._asdict() for member in members]
        if not (folder / MEMBERS).is_file() or read_progress(folder / MEMBERS) != named:
            # An ended chunk's, left by a kill.
            remove(folder)
            with new_folder(folder) as aside:
                write_json(aside / MEMBERS, named)
        self.checkpoints = Checkpoints(folder / "checkpoints", keep_last=1)
        self.curves: list[list[dict[str, Any]]] = [[] for _ in members]
        self.losses = np.zeros((len(members), 2))  # (sum, weight) since the last evaluation
        self.clock, self.state = self._start(console)
        self.progress = ProgressLine(console, self.clock.step, self.steps)
        self.saved_at, self.asked, self.wants_save = time.monotonic(), self.clock.step, False

    def train(self) -> tuple[list[MemberResult], Any]:
        """Runs the remaining steps; returns the members' results, and the parameters of the best of them."""
        config, members = self.config, self.members
        step_fn = partial(self.program.step, self.seeds, self.rates)
        try:
            never = self.steps + 1  # bad steps in a row: members that have diverged are told in the results
            state = train(self.state, step_fn, self._batches(), self.clock, self, max_bad_steps=never)
        except BaseException:
            self.checkpoints.abandon()
            raise
        finally:
            self.progress.close()
        self.checkpoints.close()
        skipped, bad = jax.device_get((state.skipped, state.bad_steps))
        results = [
            MemberResult(*member, self._has_diverged(int(skipped[at]), int(bad[at])), int(skipped[at]), self.curves[at])
            for at, member in enumerate(members)
        ]
        best = best_of(results, main_metric(config))
        at = 0 if best is None else results.index(best)
        return results, jax.device_get(jax.tree.map(lambda leaf: leaf[at], state.params))

    def _has_diverged(self, skipped: int, in_a_row: int) -> bool:
        """By the updates that were left out: a tenth of them, or the last ones of all."""
        return 10 * skipped > self.steps or in_a_row >= LAST_UPDATES

    def observe(self, clock: Clock, out: dict[str, Any]) -> None:
        new = np.asarray(out["loss"], np.float64)
        self.losses += np.where(np.isfinite(new).all(1, keepdims=True), new, 0.0)
        if clock.step % self.config.runtime.log_every == 0:
            rate = clock.tokens / clock.seconds if clock.seconds > 0 else None
            loss = summarise(self._mean_losses()).median
            self.progress.show({"step": clock.step, "train/loss": loss, "tokens_per_second": rate})

    def due(self, step: int) -> bool:
        if step != self.asked:  # once a step, for the loop asks twice and must be told the same
            passed = time.monotonic() - self.saved_at
            self.asked, self.wants_save = step, passed > 60 * self.config.runtime.save_minutes
        return step in self.evaluate_at or self.wants_save

    def act(self, clock: Clock, state: TrainState) -> None:
        if clock.step in self.evaluate_at and not any(at["step"] == clock.step for at in self.curves[0]):
            self._evaluate(clock, state)
        if self.wants_save and clock.step < self.steps:
            self._save(clock, state)

    def save(self, clock: Clock, state: TrainState, stopped: bool) -> None:
        if stopped:  # what has ended is kept by its results
            self._save(clock, state)
        self.checkpoints.wait()

    def _save(self, clock: Clock, state: TrainState) -> None:
        meta: dict[str, Any] = {"step": clock.step, "tokens": clock.tokens, "seconds": clock.seconds}
        meta |= {"curves": self.curves, "losses": self.losses.tolist()}
        self.saved_at = time.monotonic()
        self.checkpoints.save(clock.step, state, meta, None)

    def _evaluate(self, clock: Clock, state: TrainState) -> None:
        task, special = self.config.task, self.start.tokenizer.special
        found: list[dict[str, float]] = [{} for _ in self.members]
        last = clock.step == self.steps
        for held_out in self.program.rows.dev + (self.program.rows.test if last else []):
            ask = partial(answer_members, self.start.model, task, special, state.params)
            outputs = answer_rows(ask, held_out.rows, special, self.program.rows.dev_buckets)
            prefix = f"{held_out.name}/" if held_out.name else ""
            for at in range(len(self.members)):
                metrics = measure(task, held_out.examples, held_out.rows, of_member(outputs, at))
                found[at] |= {prefix + name: value for name, value in metrics.items()}
        for curve, metrics, loss in zip(self.curves, found, self._mean_losses(), strict=True):
            epoch = round(self.config.epochs * clock.step / self.steps, 4)
            about = {"step": clock.step, "epoch": epoch, "seconds": round(clock.seconds, 3), "loss": float(loss)}
            curve.append(about | metrics)
        self.losses[:] = 0
        metric = main_metric(self.config)
        s = summarise(np.array([metrics[metric] for metrics in found]))
        median, low, high = (figure(metric, value) for value in (s.median, s.low, s.high))
        spread = f" (median of {s.n}, {low} to {high})" if len(found) > 1 else ""
        self.progress.say(f"epoch {self.curves[0][-1]['epoch']:.2f}: {metric} {median}{spread}")

    def _start(self, console: Console) -> tuple[Clock, TrainState]:
        """Resumes from the newest checkpoint of these members, or begins."""
        restored = self.checkpoints.restore_newest(self.program.shapes(self.seeds, self.place), console.print)
        if restored is None:
            return Clock(), self.program.fresh(self.seeds, self.place)
        console.print(f"resuming {len(self.members)} members at step {restored.step:,}", highlight=False)
        self.curves, self.losses = restored.meta["curves"], np.array(restored.meta["losses"])
        return Clock(restored.step, restored.meta["tokens"], restored.meta["seconds"]), restored.state

    def _batches(self) -> Iterator[dict[str, jax.Array]]:
        for step in range(self.clock.step, self.steps):
            numbers = np.stack([plan.rows[step] for plan in self.plans])
            yield jax.device_put(collate(self.program.train_rows, numbers, int(self.plans[0].bucket[step])), self.place)

    def _mean_losses(self) -> np.ndarray:
        """Each member's mean loss since the last evaluation; NaN where every step of it was skipped."""
        total, weight = self.losses.T
        return np.divide(total, weight, out=np.full(len(total), np.nan), where=weight > 0)
