"""Event files for TensorBoard."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from diffusion.optional import from_extra

with from_extra("train"):
    from tensorboardX import summary
    from tensorboardX.event_file_writer import EventsWriter
    from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore

FLUSH_SECONDS = 10
"""Time between two flushes. A kill loses what was logged since; metrics.jsonl still has it."""


class TensorBoard:
    """Writes a run's metrics and samples for TensorBoard.

    A run that resumes starts a new event file, which makes TensorBoard hide what earlier files hold
    of steps after `step`. The file is created with the first value, and written in the calling
    thread. tensorboardX's SummaryWriter writes in a background thread instead, where an OSError
    such as a full disk cannot be caught, and the training then blocks on a full queue.

    Args:
      run_dir: the run's folder.
      step: the step from which the run resumes; 0 for a new run.
    """

    def __init__(self, run_dir: Path, step: int):
        self._prefix, self._first = str(run_dir / "events"), step + 1
        self._file: EventsWriter | None = None
        self._flushed = 0.0

    def metrics(self, step: int, values: dict[str, float]) -> None:
        parts = [summary.scalar(name, value) for name, value in values.items()]
        self._write(step, *parts)

    def samples(self, step: int, pixels: UInt8[np.ndarray, "H W C"]) -> None:
        self._write(step, summary.image("samples", pixels, dataformats="HWC"))

    def close(self) -> None:
        if self._file is not None:
            self._file.close()

    def _write(self, step: int, *summaries: Any) -> None:
        if self._file is None:
            # the step makes the name unique: EventsWriter's own names differ by whole seconds only
            self._file = EventsWriter(self._prefix, f".{self._first}")
            start = SessionLog(status=SessionLog.START)
            self._file.write_event(Event(step=self._first, session_log=start))
        for part in summaries:
            self._file.write_event(Event(step=step, wall_time=time.time(), summary=part))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()
