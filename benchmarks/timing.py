"""Times several sides (such as ours and PyTorch) in turn, and compares them by ratios.

Shared machines are noisy, but noise affects measurements that are close in time alike. So each
round times every side once, and ratios are taken within a round.
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
    """Reads an option that is a positive integer."""
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text} is not a positive integer")
    return int(text)


def json_file(text: str) -> Path:
    """Reads an option that is a file to write, and creates its folder; fails before measuring."""
    path = Path(text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{path.parent}: {error.strerror}") from None
    if path.is_dir() or not os.access(path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"{path} cannot be written")
    return path


def is_out_of_memory(message: str) -> bool:
    """Whether a message of JAX or PyTorch reports that a device is out of memory."""
    return "RESOURCE_EXHAUSTED" in message or "OutOfMemory" in message


@dataclass(frozen=True)
class Row:
    """The measurements of one side.

    Attributes:
      case: what is computed.
      images: images per call.
      side: name of the side.
      parameters: number of parameters of this side's network.
      milliseconds: median time of a call.
      images_per_second: images per call divided by that median.
      ratio: this side's time divided by the reference's, median over the rounds; below 1 is faster.
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
    """Seconds of each side's call in each round.

    A call must return only when its work is done. The first call of each side is not timed, because
    it compiles. In each round each side makes one more call before the timed one: threads of the
    previous side can still be spinning, and caches hold its data.
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
    """One row per side.

    Args:
      case: what is computed.
      seconds: times of each side by round, as `alternate` returns them.
      reference: the side that the others are compared with.
      images: images per call.
      parameters: number of parameters of each side's network.
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
    """Prints one line per row."""
    for row in rows:
        speed = f"{row.milliseconds:10.1f} ms {row.images_per_second:9.1f} img/s"
        ratio = f"ratio {row.ratio:.3f} ({row.low:.3f} to {row.high:.3f})"
        print(f"{row.case:20} batch {row.images:<5} {row.side:20} {speed}   {ratio}", flush=True)


def write_json(path: Path, name: str, rows: list[Any]) -> None:
    """Writes all rows, with the command, the commit, the date and the hardware."""
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
        "preload": os.environ.get("LD_PRELOAD"),  # malloc affects the speed on a CPU
        "rows": [asdict(row) for row in rows],
    }
    path.write_text(json.dumps(record, indent=2) + "\n")


def _commit() -> str | None:
    """The commit, followed by + if the tree has changes; None outside a git repository."""
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
