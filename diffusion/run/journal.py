"""The records of a run: metrics.jsonl and sample grids, TensorBoard's files, a tracker."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from diffusion.data.images import save_png, zoom_for
from diffusion.run.checkpoint import as_save_error
from diffusion.run.tensorboard import TensorBoard
from diffusion.run.tracker import Tracker


class Files:
    """metrics.jsonl and samples/STEP.png of a run that goes on after `step`.

    What a killed run wrote of steps beyond its last checkpoint is taken out, so a step stands in
    metrics.jsonl once, and no grid is of other weights.

    Args:
      run_dir: the run's folder.
      step: the step from which the run goes on; 0 for a new one.
    """

    def __init__(self, run_dir: Path, step: int):
        self._samples, path = run_dir / "samples", run_dir / "metrics.jsonl"
        self._samples.mkdir(exist_ok=True)
        for grid in self._samples.glob("*.png"):
            number = grid.stem.removeprefix(".")  # with one, it was being written
            if number.isdecimal() and (number != grid.stem or int(number) > step):
                grid.unlink()
        if path.exists():
            lines = path.read_text(errors="replace").splitlines(keepends=True)
            partial = run_dir / ".metrics.jsonl"
            partial.write_text("".join(line for line in lines if _is_kept(line, step)))
            partial.replace(path)  # whole or not at all
        self._lines = open(path, "a", buffering=1)  # line by line: a killed run keeps what it wrote

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """One JSON object a line: the step, then the values."""
        self._lines.write(json.dumps({"step": step, **values}) + "\n")

    def samples(self, step: int, pixels: UInt8[np.ndarray, "H W C"]) -> None:
        save_png(self._samples / f"{step}.png", pixels, zoom=zoom_for(pixels))

    def close(self) -> None:
        self._lines.close()


class Journal:
    """Writes metrics and samples to all records of a run.

    Args:
      run_dir: the run's folder.
      records: where it is written; none on hosts that write nothing.
    Raises:
      SaveError: by each call, where a record cannot be written.
    """

    def __init__(self, run_dir: Path, records: Sequence["Record"]):
        self._run_dir, self._records = run_dir, records

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Means since the last reading, by name."""
        with as_save_error(self._run_dir, OSError):
            for record in self._records:
                record.metrics(step, values)

    def samples(self, step: int, pixels: UInt8[np.ndarray, "H W C"]) -> None:
        """A grid of samples."""
        with as_save_error(self._run_dir, OSError):
            for record in self._records:
                record.samples(step, pixels)

    def close(self) -> None:
        with as_save_error(self._run_dir, OSError), contextlib.ExitStack() as stack:
            for record in self._records:
                stack.callback(record.close)  # each, though another cannot be closed


def _is_kept(line: str, step: int) -> bool:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:  # cut short by a kill
        return False
    return (
        isinstance(record, dict) and isinstance(record.get("step"), int) and record["step"] <= step
    )


Record = Files | TensorBoard | Tracker
