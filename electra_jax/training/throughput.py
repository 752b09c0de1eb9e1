"""What a device could do at best, to hold what it does against."""

import time

import jax
import jax.numpy as jnp

# Dense peak in TFLOP/s: (substring of the device kind, bfloat16, float32). From the vendors' data sheets; float32 on
# Ampere and later is TF32 off, on TPUs three bfloat16 passes.
PEAKS = (
    ("H200", 989.0, 67.0),
    ("H100", 989.0, 67.0),
    ("A100", 312.0, 19.5),
    ("V100", 125.0, 15.7),
    ("L4", 121.0, 30.3),
    ("T4", 65.0, 8.1),
    ("TPU v6", 918.0, 306.0),
    ("TPU v5p", 459.0, 153.0),
    ("TPU v5 lite", 197.0, 65.7),
    ("TPU v5e", 197.0, 65.7),
    ("TPU v4", 275.0, 91.7),
)


def peak_flops(device: jax.Device, dtype: str) -> float | None:
    """FLOP/s of one device at best, or None for an unknown one. On a CPU: what a large matrix product reaches.

    A CPU's devices share its cores, so one of n simulated devices has an nth of it.
    """
    if device.platform == "cpu":
        return _measured(device) / jax.local_device_count("cpu")
    for kind, bfloat16, float32 in PEAKS:
        if kind.lower() in device.device_kind.lower():
            return (bfloat16 if dtype == "bfloat16" else float32) * 1e12
    return None


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
