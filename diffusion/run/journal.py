"""Where a run's metrics and samples are logged: files, TensorBoard, a tracker."""

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
    """metrics.jsonl and samples/STEP.png.

    On resuming, lines and grids of steps after `step` are removed: a killed run can have logged
    steps after its last checkpoint, which are now trained again.

    Args:
      run_dir: the run's folder.
      step: the step from which the run resumes; 0 for a new run.
    """

    def __init__(self, run_dir: Path, step: int):
        self._samples, path = run_dir / "samples", run_dir / "metrics.jsonl"
        self._samples.mkdir(exist_ok=True)
        for grid in self._samples.glob("*.png"):
            number = grid.stem.removeprefix(".")  # the dot marks an unfinished file
            if number.isdecimal() and (number != grid.stem or int(number) > step):
                grid.unlink()
        if path.exists():
            lines = path.read_text(errors="replace").splitlines(keepends=True)
            partial = run_dir / ".metrics.jsonl"
            partial.write_text("".join(line for line in lines if _is_kept(line, step)))
            partial.replace(path)  # atomic
        self._lines = open(path, "a", buffering=1)  # flushes each line, so a kill loses none

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Appends one line, a JSON object of the step and the values."""
        self._lines.write(json.dumps({"step": step, **values}) + "\n")

    def samples(self, step: int, pixels: UInt8[np.ndarray, "H W C"]) -> None:
        save_png(self._samples / f"{step}.png", pixels, zoom=zoom_for(pixels))

    def close(self) -> None:
        self._lines.close()


class Journal:
    """Sends metrics and samples to all records of a run; each method can raise a SaveError.

    Args:
      run_dir: the run's folder.
      records: files, TensorBoard and trackers; none except on the main host.
    """

    def __init__(self, run_dir: Path, records: Sequence["Record"]):
        self._run_dir, self._records = run_dir, records

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """Logs the metrics of a step, by name."""
        with as_save_error(self._run_dir, OSError):
            for record in self._records:
                record.metrics(step, values)

    def samples(self, step: int, pixels: UInt8[np.ndarray, "H W C"]) -> None:
        """Logs a grid of samples."""
        with as_save_error(self._run_dir, OSError):
            for record in self._records:
                record.samples(step, pixels)

    def close(self) -> None:
        with as_save_error(self._run_dir, OSError), contextlib.ExitStack() as stack:
            for record in self._records:
                stack.callback(record.close)  # closes each, even if closing another fails


def _is_kept(line: str, step: int) -> bool:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:  # the run was killed while it wrote the line
        return False
    return (
        isinstance(record, dict) and isinstance(record.get("step"), int) and record["step"] <= step
    )


Record = Files | TensorBoard | Tracker
