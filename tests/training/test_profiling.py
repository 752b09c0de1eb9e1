"""A recorded trace holds the steps that were asked for, and opens where people look at traces."""

import gzip
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from electra_jax.training.profiling import SKIPPED, profiled


@jax.jit
def step(x: jax.Array) -> jax.Array:
    return jnp.tanh(x @ x)


def recorded_steps(folder: Path) -> list[int]:
    """The numbers of the steps in the trace that Perfetto opens."""
    (path,) = folder.rglob("perfetto_trace.json.gz")
    assert list(path.parent.glob("*.xplane.pb"))  # what TensorBoard opens
    events = json.loads(gzip.decompress(path.read_bytes()))["traceEvents"]
    return sorted(int(event["args"]["step_num"]) for event in events if event.get("name") == "train")


@pytest.mark.parametrize(("calls", "recorded"), [(8, [3, 4]), (4, [3]), (SKIPPED, None)])
def test_the_steps_asked_for_are_recorded(tmp_path: Path, calls: int, recorded: list[int] | None) -> None:
    """As many as there are, where the run ends before; the results are the step's."""
    x = jnp.full((32, 32), 0.01)
    with profiled(step, 2, tmp_path / "profile") as traced:
        found = [traced(x) for _ in range(calls)]
    assert all((result == step(x)).all() for result in found)
    if recorded is None:
        assert not (tmp_path / "profile").exists()
    else:
        assert recorded_steps(tmp_path / "profile") == recorded


def test_nothing_is_recorded_unless_asked_for(tmp_path: Path) -> None:
    with profiled(step, 0, tmp_path / "profile") as traced:
        assert traced is step


def test_what_was_recorded_before_a_fault_is_written(tmp_path: Path) -> None:
    def run() -> None:
        with profiled(step, 5, tmp_path / "profile") as traced:
            for _ in range(5):
                traced(jnp.ones((4, 4)))
            raise RuntimeError("disk")

    with pytest.raises(RuntimeError, match="disk"):
        run()
    assert recorded_steps(tmp_path / "profile") == [3, 4]
