"""Sides timed in turn, in one process: the ratio of their times, and how far it spreads.

Shared machines are noisy, and what slows one side slows its neighbour in time alike: each round
times every side once, and a ratio is taken within a round.
"""

import argparse
import contextlib
import datetime
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np


def count(text: str) -> int:
    """An option that is a whole number above 0."""
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text} is no whole number above 0")
    return int(text)


def json_file(text: str) -> Path:
    """An option that is a file to write; its folder is made before what takes long, not after."""
    path = Path(text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path.parent}: {error.strerror}") from None
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path} cannot be written")
    return path


def is_out_of_memory(message: str) -> bool:
    """Whether JAX or PyTorch says that a device has no more memory."""
    return "RESOURCE_EXHAUSTED" in message or "OutOfMemory" in message


@dataclass(frozen=True)
class Row:
    """What was measured of one side.

    Attributes:
      case: what is computed.
      images: in a call.
      parameters: of this side's network.
      milliseconds: median of a call.
      images_per_second: by that median.
      ratio: median over the rounds of this side's time over the reference's; below 1 is faster.
      low, high: quartiles of that ratio.
    """

    case: str
    images: int
    side: str
    parameters: int
    milliseconds: float
    images_per_second: float
    ratio: float
    low: float
    high: float


def alternate(sides: Mapping[str, Callable[[], Any]], rounds: int) -> dict[str, np.ndarray]:
    """Seconds of each side's call in each round; a first call of each, not counted, compiles.

    A call returns when its work is done. At each turn one goes before that is not counted: threads
    of the side before may still spin, and caches hold its data.
    """
    for call in sides.values():
        call()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, call in sides.items():
            call()
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    return {name: np.array(values) for name, values in seconds.items()}


def rows(
    case: str,
    seconds: Mapping[str, np.ndarray],
    reference: str,
    *,
    images: int,
    parameters: Mapping[str, int],
) -> list[Row]:
    """One row a side.

    Args:
      reference: the side to which the others are compared.
      images: in a call.
      parameters: of each side's network.
    """
    made = []
    for side, values in seconds.items():
        low, ratio, high = np.quantile(values / seconds[reference], [0.25, 0.5, 0.75])
        median = float(np.median(values))
        rate = images / median
        numbers = (1e3 * median, rate, float(ratio), float(low), float(high))
        made.append(Row(case, images, side, parameters[side], *numbers))
    return made


def show(rows: list[Row]) -> None:
    """A line a row."""
    for row in rows:
        speed = f"{row.milliseconds:10.1f} ms {row.images_per_second:9.1f} img/s"
        ratio = f"ratio {row.ratio:.3f} ({row.low:.3f} to {row.high:.3f})"
        print(f"{row.case:20} batch {row.images:<5} {row.side:20} {speed}   {ratio}", flush=True)


def write_json(path: Path, name: str, rows: list[Any]) -> None:
    """All rows, with the command, the commit, the day and the hardware."""
    device = jax.devices()[0]
    record = {
        "benchmark": name,
        "command": " ".join(["python -m", f"benchmarks.{name}", *sys.argv[1:]]),
        "commit": _commit(),
        "date": f"{datetime.date.today()}",
        "device": device.device_kind if device.platform != "cpu" else _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "jax": jax.__version__,
        "preload": os.environ.get("LD_PRELOAD"),  # another malloc changes a CPU's figures
        "rows": [asdict(row) for row in rows],
    }
    path.write_text(json.dumps(record, indent=2) + "\n")


def _commit() -> str | None:
    """With a plus where the tree differs from it; None outside of a repository."""
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty=+"]
    with contextlib.suppress(OSError, subprocess.CalledProcessError):
        return subprocess.run(git, check=True, capture_output=True, text=True).stdout.strip()
    return None


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
