"""Peak speed of the devices, and their memory."""

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
"""Peak FLOP/s of dense matrix products in half precision, as the manufacturers state it.

The keys are prefixes of the device's name; the first that fits counts.
"""


def peak_flops(device: Any) -> float | None:
    """The device's peak in half precision, or None where it is not known."""
    return next(
        (peak for name, peak in PEAK_FLOPS.items() if device.device_kind.startswith(name)), None
    )


def memory_gib() -> float:
    """Peak memory use: the largest among the devices, or the process's where all are CPUs."""
    stats = [device.memory_stats() or {} for device in jax.local_devices()]
    used = max(stat.get("peak_bytes_in_use", 0) for stat in stats)
    if not used:
        unit = 1 if sys.platform == "darwin" else 1024
        used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return used / 2**30


def fits_on_device(num_bytes: int, device: Any) -> bool:
    """Whether the dataset should be kept in this device's memory.

    True on accelerators for up to a quarter of their memory. False on a CPU: the dataset is kept on
    the device for the sake of several steps per dispatch, which are slow there.
    """
    if device.platform == "cpu":
        return False
    limit = (device.memory_stats() or {}).get("bytes_limit")
    return limit is None or num_bytes <= limit / 4
