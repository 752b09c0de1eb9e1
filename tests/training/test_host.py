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
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step(x).block_until_ready()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the setting is glibc's")
def test_a_tuned_process_reuses_the_memory_of_its_last_step():
    """Page faults of ten steps with 16 MB temporaries, counted by the kernel."""
    faults = {
        how: int(subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, check=True).stdout)
        for how in ("tuned", "plain")
    }
    assert faults["plain"] > 20_000
    assert faults["tuned"] < faults["plain"] / 10
