"""What a run writes down as it goes: metrics.jsonl, TensorBoard event files, sample grids."""

import json
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from tensorboardX import SummaryWriter

from diffusion.images import save_png, zoom_for


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
            path.write_text("".join(line for line in lines if _is_kept(line, step)))
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
        return json.loads(line)["step"] <= step
    except json.JSONDecodeError:  # cut short by a kill
        return False
