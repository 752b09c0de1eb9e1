import os
import signal
import time

import jax.numpy as jnp
import optax
import pytest

from electra_jax.errors import Interrupted, MachineError
from electra_jax.training.loop import Clock, Hooks, timed, train
from electra_jax.training.state import create_state


class Recorder:
    """Hooks that write down what they are told, and act at every third step."""

    def __init__(self, told, steps=9):
        self.told, self.steps = told, steps

    def observe(self, clock, out):
        self.told.append(("observe", clock.step, int(out["value"])))

    def due(self, step):
        return step % 3 == 0 or step == self.steps

    def act(self, clock, state):
        self.told.append(("act", clock.step, int(state.params["sum"])))

    def save(self, clock, state, stopped):
        self.told.append(("stop" if stopped else "save", clock.step, int(state.params["sum"])))


def run(steps=9, stop_at=None, bad_from=None, start=0):
    """Adds batches up; at `stop_at` this process gets a real SIGTERM."""
    told = []
    hooks = Recorder(told, steps)
    assert isinstance(hooks, Hooks)

    def step_fn(state, batch):
        told.append(("step", batch))
        if batch == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)
        bad = 0 if bad_from is None else max(0, batch - bad_from + 1)
        state = state._replace(params={"sum": state.params["sum"] + batch})
        return state, {"tokens": jnp.asarray(10), "bad_steps": jnp.asarray(bad), "value": state.params["sum"]}

    clock = Clock(step=start)
    fresh = create_state({"sum": jnp.asarray(0)}, optax.sgd(1.0), ("loss",))
    try:
        state = train(fresh, step_fn, range(start + 1, steps + 1), clock, hooks, max_bad_steps=2)
    except (Interrupted, MachineError) as error:
        return told, clock, error
    return told, clock, int(state.params["sum"])


def test_a_step_s_outputs_are_read_after_the_next_was_dispatched():
    told, clock, state = run()
    assert state == sum(range(10))
    assert clock.tokens == 90
    # Except where the state itself is wanted.
    assert told[:8] == [
        ("step", 1),
        ("step", 2),
        ("observe", 1, 1),
        ("step", 3),
        ("observe", 2, 3),
        ("observe", 3, 6),
        ("act", 3, 6),
        ("step", 4),
    ]
    assert [entry[1] for entry in told if entry[0] == "observe"] == list(range(1, 10))
    assert told[-2:] == [("act", 9, 45), ("save", 9, 45)]


@pytest.mark.parametrize("stop_at", [4, 6, 9])
def test_a_stop_loses_no_step_s_metrics_whenever_it_comes(stop_at):
    whole, _, _ = run()
    first, _, error = run(stop_at=stop_at)
    assert isinstance(error, Interrupted)
    assert error.exit_code == 128 + signal.SIGTERM
    assert first[-1] == ("stop", stop_at, sum(range(stop_at + 1)))
    second, _, _ = run(start=stop_at)
    for kind in ("observe", "act"):
        seen = [entry[1] for entry in first + second if entry[0] == kind]
        assert seen == [entry[1] for entry in whole if entry[0] == kind], kind


@pytest.mark.parametrize("bad_from", [4, 5])
def test_too_many_bad_steps_end_the_run_with_its_state_saved(bad_from):
    told, _, error = run(bad_from=bad_from)
    assert isinstance(error, MachineError)
    saved = told[-1]
    # Known at once where the outputs are read at once, else a step later.
    assert saved[0] == "stop"
    assert saved[1] in (bad_from + 1, bad_from + 2)
    assert (("act", 6) in [entry[:2] for entry in told]) == (saved[1] >= 6)


def test_the_clock_knows_how_long_batches_were_waited_for():
    def slow():
        for number in range(1, 6):
            time.sleep(0.02)
            yield number

    clock = Clock()
    assert list(timed(slow(), clock)) == [1, 2, 3, 4, 5]
    assert 0.1 <= clock.waited < 1
    for _ in timed(range(1000), before := Clock()):
        time.sleep(1e-5)  # what is done with a batch is no waiting
    assert before.waited < 0.01


def test_signal_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    run(stop_at=4)
    assert signal.getsignal(signal.SIGTERM) is before
