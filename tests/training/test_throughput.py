import jax
import pytest

from electra_jax.training.throughput import known_peak, peak_flops


@pytest.mark.parametrize(
    ("kind", "bfloat16", "float32"),
    [
        ("NVIDIA H200", 989e12, 494e12),
        ("NVIDIA H100 80GB HBM3", 989e12, 494e12),
        ("NVIDIA A100-SXM4-40GB", 312e12, 156e12),
        ("Tesla V100-SXM2-16GB", 125e12, 15.7e12),
        ("NVIDIA L4", 121e12, 60e12),
        ("TPU v5 lite", 197e12, 197e12),
        ("TPU v5", 459e12, 459e12),
        ("TPU v5p", 459e12, 459e12),
        ("TPU v6 lite", 918e12, 918e12),
        ("NVIDIA L40S", None, None),
        ("NVIDIA GeForce", None, None),
    ],
)
def test_peaks_of_known_devices(kind, bfloat16, float32):
    assert known_peak(kind, "bfloat16") == bfloat16
    assert known_peak(kind, "float32") == float32


def test_a_cpu_s_peak_is_measured_and_shared_by_its_devices():
    assert 1e8 < peak_flops(jax.devices()[0], "float32") < 1e14
