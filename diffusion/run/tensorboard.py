"""TensorBoard's event files."""

import time
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from tensorboardX import summary
from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog  # pyright: ignore

FLUSH_SECONDS = 10
"""Between two flushes, which wait for the disk; what a kill loses here is in metrics.jsonl."""


class TensorBoard:
    """The event file of a run that goes on after `step`, beside those of its earlier parts.

    What a killed run told of later steps is not shown any more. The file is opened by the first
    record, and written here and now: tensorboardX's own SummaryWriter does it in a thread, where a
    full disk is a traceback, and then a queue that nobody empties.

    Args:
      run_dir: the run's folder.
      step: the step from which the run goes on; 0 for a new one.
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
            # by its step too, as names are of whole seconds
            self._file = EventsWriter(self._prefix, f".{self._first}")
            start = SessionLog(status=SessionLog.START)
            self._file.write_event(Event(step=self._first, session_log=start))
        for part in summaries:
            self._file.write_event(Event(step=step, wall_time=time.time(), summary=part))
        if time.monotonic() - self._flushed > FLUSH_SECONDS:
            self._file.flush()
            self._flushed = time.monotonic()
