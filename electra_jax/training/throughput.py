"""What a device could do at best, to hold what it does against."""

import re
import time

import jax
import jax.numpy as jnp

# Dense peak in TFLOP/s: (word of the device kind, bfloat16, float32). From the vendors' data sheets. float32 is what
# jax computes its products in by default: TF32 on Ampere and later, one bfloat16 pass on TPUs.
PEAKS = (
    ("H200", 989.0, 494.0),
    ("H100", 989.0, 494.0),
    ("A100", 312.0, 156.0),
    ("V100", 125.0, 15.7),
    ("L4", 121.0, 60.0),
    ("T4", 65.0, 8.1),
    ("TPU v6 lite", 918.0, 918.0),
    ("TPU v6e", 918.0, 918.0),
    ("TPU v5p", 459.0, 459.0),
    ("TPU v5", 459.0, 459.0),
    ("TPU v5 lite", 197.0, 197.0),
    ("TPU v5e", 197.0, 197.0),
    ("TPU v4", 275.0, 275.0),
)


def peak_flops(device: jax.Device, dtype: str) -> float | None:
    """FLOP/s of one device at best, or None for an unknown one. On a CPU: what a large matrix product reaches.

    A CPU's devices share its cores, so one of n simulated devices has an nth of it.
    """
    if device.platform == "cpu":
        return _measured(device) / jax.local_device_count("cpu")
    return known_peak(device.device_kind, dtype)


def known_peak(kind: str, dtype: str) -> float | None:
    """FLOP/s from the table, or None."""
    # "TPU v5 lite" holds the words of "TPU v5" too, and "NVIDIA L40S" the letters of "L4".
    known = [peak for peak in PEAKS if re.search(rf"\b{peak[0]}\b", kind, re.IGNORECASE)]
    if not known:
        return None
    _, bfloat16, float32 = max(known, key=lambda peak: len(peak[0]))
    return (bfloat16 if dtype == "bfloat16" else float32) * 1e12


def _measured(device: jax.Device, size: int = 1536) -> float:
    with jax.default_device(device):
        x = jnp.ones((size, size))
        product = jax.jit(lambda x: x @ x)
        product(x).block_until_ready()
        seconds = []
        for _ in range(5):
            began = time.perf_counter()
            product(x).block_until_ready()
            seconds.append(time.perf_counter() - began)
    return 2 * size**3 / min(seconds)
