"""Records what the device does in a few steps, for TensorBoard and Perfetto."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax

# Steps left out at first: they are slower than the others.
SKIPPED = 3


@contextmanager
def profiled(step_fn: Callable[..., Any], steps: int, folder: Path) -> Iterator[Callable[..., Any]]:
    """`step_fn`, of whose calls so many are recorded into the folder, from the fourth on; none of them for 0.

    What was recorded is written when the steps are over or the block is left. TensorBoard's profile plugin opens the
    folder, ui.perfetto.dev the `perfetto_trace.json.gz` in it.
    """
    calls, recording = 0, False

    def recorded(*args: Any) -> Any:
        nonlocal calls, recording
        if calls == SKIPPED:
            jax.profiler.start_trace(folder, create_perfetto_trace=True)
            recording = True
        with jax.profiler.StepTraceAnnotation("train", step_num=calls):
            result = step_fn(*args)
        calls += 1
        if recording and calls == SKIPPED + steps:
            jax.block_until_ready(result)
            jax.profiler.stop_trace()
            recording = False
        return result

    try:
        yield recorded if steps else step_fn
    finally:
        if recording:
            jax.profiler.stop_trace()
