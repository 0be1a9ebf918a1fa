"""What a run measures and writes as it goes: metrics.jsonl, TensorBoard files, sample grids."""

import json
import time
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, UInt8
from tensorboardX import SummaryWriter

from diffusion.images import save_png, zoom_for


class Meter:
    """Means of the metrics, and images per second, since the last reading.

    Adding does not wait for the device; reading does.

    Args:
      batch_size: images in a step.
    """

    def __init__(self, batch_size: int):
        self._batch_size = batch_size
        self._metrics: list[dict[str, Array]] = []
        self.restart_clock()

    def add(self, metrics: dict[str, Array]) -> None:
        """Takes in the metrics of one step."""
        self._metrics.append(metrics)
        self._timed_steps += 1

    def restart_clock(self) -> None:
        """Leaves what went before out of the speed, such as compiling or sampling."""
        self._since, self._timed_steps = time.perf_counter(), 0

    def read(self) -> dict[str, float]:
        """The means over the steps since the last reading; not finite if any step was not.

        There is no "images_per_second" where no step was timed.
        """
        fetched = jax.device_get(self._metrics)
        names = ("loss", *sorted(fetched[0].keys() - {"loss"}))
        values = {name: float(np.mean([metrics[name] for metrics in fetched])) for name in names}
        if self._timed_steps:
            elapsed_seconds = time.perf_counter() - self._since
            values["images_per_second"] = self._timed_steps * self._batch_size / elapsed_seconds
        self._metrics = []
        self.restart_clock()
        return values


class Journal:
    """Writes the records of a run that continues after `step`.

    Lines that a killed run wrote beyond its last checkpoint are taken out, so a step stands in
    metrics.jsonl once.

    Args:
      run_dir: the run's folder.
      step: the step from which the run goes on; 0 for a new one.
    """

    def __init__(self, run_dir: Path, step: int):
        self.run_dir = run_dir
        path = run_dir / "metrics.jsonl"
        if path.exists():
            lines = path.read_text().splitlines(keepends=True)
            partial = run_dir / ".metrics.jsonl"
            partial.write_text("".join(line for line in lines if _is_kept(line, step)))
            partial.replace(path)  # whole or not at all
        self._lines = open(path, "a", buffering=1)  # line by line: a killed run keeps what it wrote
        self._tensorboard = SummaryWriter(str(run_dir), purge_step=step + 1 if step else None)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """One JSON object a line: the step, then the values."""
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._tensorboard.add_scalar(name, value, step)

    def samples(self, step: int, pixels: UInt8[np.ndarray, "H W C"]) -> Path:
        """A grid of samples, as samples/STEP.png and in TensorBoard."""
        path = self.run_dir / "samples" / f"{step}.png"
        save_png(path, pixels, zoom=zoom_for(pixels))
        self._tensorboard.add_image("samples", pixels, step, dataformats="HWC")
        return path

    def close(self) -> None:
        self._lines.close()
        self._tensorboard.close()


def _is_kept(line: str, step: int) -> bool:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:  # cut short by a kill
        return False
    return (
        isinstance(record, dict) and isinstance(record.get("step"), int) and record["step"] <= step
    )
