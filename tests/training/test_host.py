import statistics
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
if sys.argv[1] == "tuned":
    from electra_jax.training.host import tune_for_cpu
    tune_for_cpu()
import jax, jax.numpy as jnp

@jax.jit
def step(x):
    return jnp.sort(jnp.sin(x) @ x, axis=0).sum()

x = jnp.ones((2048, 2048))
for _ in range(3):
    step(x).block_until_ready()
faults = [resource.getrusage(resource.RUSAGE_SELF).ru_minflt]
for _ in range(15):
    step(x).block_until_ready()
    faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt)
print(*(after - before for before, after in zip(faults, faults[1:])))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is glibc's")
def test_a_tuned_process_reuses_the_memory_of_its_last_step():
    """Page faults of each of fifteen steps with 16 MB temporaries, counted by the kernel.

    The heap may grow once more after the first steps, when a temporary finds no hole of its size: a step's faults
    once, where an untuned process has them in every step. So the step in the middle is what is compared.
    """
    runs = {
        how: subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True) for how in ("tuned", "plain")
    }
    tuned, plain = ([int(faults) for faults in run.stdout.split()] for run in runs.values())
    assert statistics.median(plain) > 2_000
    assert statistics.median(tuned) < 20
    assert sum(tuned) < sum(plain) / 4
