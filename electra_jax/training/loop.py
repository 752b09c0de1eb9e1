"""Runs a step function over batches. Everything else is a hook."""

import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol, runtime_checkable

import jax

from electra_jax.errors import Interrupted, MachineError
from electra_jax.training.state import TrainState


@dataclass
class Clock:
    """How far a run is, over all its processes."""

    step: int = 0
    tokens: int = 0  # real tokens trained on
    seconds: float = 0.0  # of training, without start-up
    waited: float = 0.0  # seconds of them that went by until the next batch was there, since this process began


@runtime_checkable
class Hooks(Protocol):
    """What a run does around its steps."""

    def observe(self, clock: Clock, out: dict[str, Any]) -> None:
        """Sees the host's copy of each step's outputs, one step late."""

    def due(self, step: int) -> bool:
        """True where `act` wants the state after this step."""

    def act(self, clock: Clock, state: TrainState) -> None:
        """Evaluates, saves, …"""

    def save(self, clock: Clock, state: TrainState, stopped: bool) -> None:
        """Writes the state, and returns when it is on disk; `stopped` where this is not how the run was to end."""


def train(
    state: TrainState,
    step_fn: Callable[[TrainState, Any], tuple[TrainState, dict[str, Any]]],
    batches: Iterable[Any],
    clock: Clock,
    hooks: Hooks,
    max_bad_steps: int,
    agree: Callable[[int], int] = lambda signum: signum,
) -> TrainState:
    """Trains until the batches end, and saves the last state.

    The outputs of step N − 1 are read after step N was dispatched, so the device never waits for the host.
    `step_fn`'s outputs hold at least `tokens` and `bad_steps`. `agree` is called once a step with the signal that
    this process has caught, or 0, and says the one at which all processes of the run stop.
    Raises Interrupted on SIGTERM or SIGINT, and MachineError after `max_bad_steps` skipped updates in a row, both
    with the state saved.
    """
    pending: tuple[int, dict[str, Any]] | None = None
    step, began = clock.step, time.perf_counter() - clock.seconds

    def read(step: int, out: dict[str, Any]) -> int:
        """Hands one step's outputs to the hooks; returns how many updates in a row were skipped by then."""
        host = jax.device_get(out)
        clock.step, clock.tokens = step, clock.tokens + int(host["tokens"])
        clock.seconds = time.perf_counter() - began
        hooks.observe(clock, host)
        return int(host["bad_steps"])

    with caught() as stop:
        for batch in timed(batches, clock):
            state, out = step_fn(state, batch)
            step += 1
            before, pending = pending, (step, out)
            bad_steps = read(*before) if before else 0
            if bad_steps >= max_bad_steps or hooks.due(step):
                bad_steps, pending = max(bad_steps, read(*pending)), None
            # Before an end of any kind, or this step's evaluation would be missing from the resumed run's metrics.
            if hooks.due(step):
                hooks.act(clock, state)
                began = time.perf_counter() - clock.seconds
            if bad_steps >= max_bad_steps:
                hooks.save(clock, state, stopped=True)
                raise MachineError(
                    f"the gradient was NaN or infinite {bad_steps} steps in a row up to step {step}: the run stops "
                    "with its last good parameters saved; look at the data, or begin a new workdir with a lower "
                    "optimizer.learning-rate"
                )
            signum = agree(stop[0] if stop else 0)
            if signum:
                if pending:
                    read(*pending)
                hooks.save(clock, state, stopped=True)
                raise Interrupted(signum, step)
        if pending:
            read(*pending)
        hooks.save(clock, state, stopped=False)
    return state


def timed(batches: Iterable[Any], clock: Clock) -> Iterator[Any]:
    """The batches; the clock keeps how long each one let the loop wait.

    A device that has a step in hand meanwhile does not wait, so this is the most that it can have waited.
    """
    source = iter(batches)
    while True:
        began = time.perf_counter()
        try:
            batch = next(source)
        except StopIteration:
            return
        clock.waited += time.perf_counter() - began
        yield batch


@contextmanager
def caught() -> Iterator[list[int]]:
    """Collects SIGTERM and SIGINT instead of dying of them; the second one kills as usual."""
    signals: list[int] = []

    def remember(signum: int, frame: FrameType | None) -> None:
        signals.append(signum)
        signal.signal(signum, before[signum])

    before = {signum: signal.signal(signum, remember) for signum in (int(signal.SIGTERM), int(signal.SIGINT))}
    try:
        yield signals
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
