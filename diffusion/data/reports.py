"""What datasets of files share: checks of their fields, and the report of what cannot be read."""

import os
import sys
from collections.abc import Sequence
from typing import Any

NAMED = 10
"""What cannot be read is counted, and this many are named."""


def check_fields(data: Any, *, channels: tuple[int, ...]) -> None:
    """Raises a ValueError where a field of such a dataset has no value that it may have.

    Args:
      channels: the numbers of channels that it may have.
    """
    size = data.image_size if isinstance(data.image_size, tuple) else (data.image_size,) * 2
    if len(size) != 2 or min(size) < 1:
        raise ValueError(f"image_size={data.image_size} is not one number or two, each >= 1.")
    if data.channels not in channels:
        kinds = {1: "1 (grey)", 3: "3 (RGB)", 4: "4 (RGBA)"}
        allowed = [kinds[number] for number in channels]
        raise ValueError(
            f"channels={data.channels}; use {', '.join(allowed[:-1])} or {allowed[-1]}."
        )
    if not 0 <= data.background <= 255:
        raise ValueError(f"background={data.background} is outside 0 .. 255.")
    if data.on_error not in ("skip", "stop"):
        raise ValueError(f"on_error={data.on_error!r}; use skip or stop.")
    if data.num_workers is not None and data.num_workers < 0:
        raise ValueError(f"num_workers={data.num_workers} must be 0 or more.")


def report(path: str, what: str, reasons: Sequence[str], total: int, *, stops: bool) -> None:
    """Says what was skipped, on stderr.

    Args:
      path: of the data.
      what: "pictures" or "pairs".
      reasons: why, of each that cannot be read.
      total: number of all of them.
      stops: whether to refuse them.
    Raises:
      ValueError: some cannot be read and `stops` is true, or none can.
    """
    if not reasons:
        return
    listed = "; ".join(reason.rstrip(".") for reason in reasons[:NAMED])
    more = f"; and {len(reasons) - NAMED} more" if len(reasons) > NAMED else ""
    said = f"{len(reasons)} of {total} {what} cannot be read: {listed}{more}."
    said = "".join(map(_printable, said))
    if stops or len(reasons) == total:
        raise ValueError(f"{path}: {said}")
    print(f"Skipped: {said}", file=sys.stderr, flush=True)


def _printable(letter: str) -> str:
    """A letter of a file's name, which may be a line's end, or no text at all."""
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode()


def cores() -> int:
    """The cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
