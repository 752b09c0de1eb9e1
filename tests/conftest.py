"""What every test runs under: shapes enforced, four CPU devices, no accelerator unless the test is marked `gpu`."""

import os
import sys

# The GPU checks choose their platform themselves; everything else is exact arithmetic on the CPU.
if "gpu" not in " ".join(sys.argv):
    os.environ["JAX_PLATFORMS"] = "cpu"

from jaxtyping import install_import_hook

install_import_hook("electra_jax", "beartype.beartype")

import jax  # noqa: E402

jax.config.update("jax_num_cpu_devices", 4)
