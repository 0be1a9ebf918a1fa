"""Peak speed and memory of the devices."""

import resource
import sys
from typing import Any

import jax

PEAK_FLOPS = {
    "NVIDIA H200": 989e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA H100": 989e12,
    "NVIDIA A100": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L4": 121e12,
    "Tesla V100": 125e12,
    "Tesla T4": 65e12,
    "TPU v6": 918e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5": 459e12,
    "TPU v4": 275e12,
}
"""Floating-point operations a second of dense matrix products in half precision, by the makers.

By the beginning of the device's name; of several the first.
"""


def peak_flops(device: Any) -> float | None:
    """The device's peak in half precision, or None where it is not known."""
    return next(
        (peak for name, peak in PEAK_FLOPS.items() if device.device_kind.startswith(name)), None
    )


def memory_gib() -> float:
    """The most memory that was in use at once: of the fullest device, on a CPU of the process."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    used = max(stat.get("peak_bytes_in_use", 0) for stat in stats)
    if not used:
        unit = 1 if sys.platform == "darwin" else 1024
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return used / 2**30


def fits_on_device(num_bytes: int, device: Any) -> bool:
    """Whether arrays should lie in the device's memory: on accelerators, up to a quarter of it.

    Not on a CPU, where several steps a dispatch, which need them there, are slow.
    """
    if device.platform == "cpu":
        return False
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return limit is None or num_bytes <= limit / 4
