"""What a run measures and writes as it goes: metrics.jsonl, TensorBoard files, sample grids."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array, UInt8
from tensorboardX import SummaryWriter

from diffusion import hosts
from diffusion.hardware import memory_gib
from diffusion.images import save_png, zoom_for
from diffusion.tracker import Tracker
from diffusion.training import LEVELS


class Meter:
    """Means of the metrics, and images per second, since the last reading.

    Adding does not wait for the device; reading does.

    Args:
      batch_size: images in a step.
      peak_images_per_second: what the devices could do at their peak, or None.
    Attributes:
      skipped_in_a_row: the longest row of skipped steps that reached into the last reading.
      is_lost: whether weights were not finite after one of the steps read; no later step heals
        them, and they must not be saved.
    """

    def __init__(self, batch_size: int, peak_images_per_second: float | None = None):
        self._batch_size, self._peak = batch_size, peak_images_per_second
        self._metrics: list[dict[str, Array]] = []
        self.skipped_in_a_row, self._latest_skipped, self.is_lost = 0, 0, False
        self.restart_clock()

    def add(self, metrics: list[dict[str, Array]], steps: int) -> None:
        """Takes in the metrics of some steps, each dictionary of one step or of several stacked."""
        self._metrics += metrics
        self._timed_steps += steps

    def restart_clock(self) -> None:
        """Leaves what went before out of the speed, such as compiling or sampling."""
        self._since, self._timed_steps = time.perf_counter(), 0

    def read(self) -> dict[str, float]:
        """The means over the steps since the last reading, but for those that were skipped.

        There is no "images_per_second" where no step was timed, and no loss where all were skipped.
        "flops_utilization" is the share of the devices' half-precision peak, where that is known.
        """
        fetched = jax.device_get(self._metrics)

        def joined(name: str, *shape: int) -> np.ndarray:
            return np.concatenate([np.reshape(part[name], (-1, *shape)) for part in fetched])

        skipped = joined("skipped")
        self.skipped_in_a_row = 0
        for is_skipped in skipped:
            self._latest_skipped = self._latest_skipped + 1 if is_skipped else 0
            self.skipped_in_a_row = max(self.skipped_in_a_row, self._latest_skipped)
        self.is_lost |= not np.isfinite(joined("weight_norm")).all()
        taken, values = skipped == 0, {}
        if taken.any():
            for name in ("loss", "grad_norm", "weight_norm"):
                values[name] = float(joined(name)[taken].mean())
            sums, counts = (
                joined(f"level_{what}", len(LEVELS) + 1)[taken].sum(0)
                for what in ("sums", "counts")
            )
            for name, total, count in zip(_LEVEL_NAMES, sums, counts, strict=True):
                if count:
                    values[f"loss_sigma_{name}"] = float(total / count)
        if skipped.any():
            values["skipped_steps"] = float(skipped.sum())
        if self._timed_steps:
            elapsed_seconds = time.perf_counter() - self._since
            values["images_per_second"] = self._timed_steps * self._batch_size / elapsed_seconds
            if self._peak is not None:
                values["flops_utilization"] = values["images_per_second"] / self._peak
        values["memory_gib"] = memory_gib()
        self._metrics = []
        self.restart_clock()
        return values


_LEVEL_NAMES = (
    f"below_{LEVELS[0]:g}",
    *(f"{low:g}_to_{high:g}" for low, high in zip(LEVELS, LEVELS[1:], strict=False)),
    f"above_{LEVELS[-1]:g}",
)


class Profile:
    """A trace of some steps, in RUN_DIR/profile.

    Args:
      steps: first and last; None for no trace.
    """

    def __init__(self, run_dir: Path, steps: tuple[int, int] | None):
        self._folder, self._steps, self._is_on = run_dir / "profile", steps, False

    def before(self, done: int, next: int) -> None:
        """To be called before the steps done + 1 .. next."""
        if self._steps is None:
            return
        first, last = self._steps
        if not self._is_on and done < last and next >= first:
            jax.profiler.start_trace(str(self._folder))
            self._is_on = True
        elif self._is_on and done >= last:
            self.__exit__()

    def __enter__(self) -> "Profile":
        return self

    def __exit__(self, *error: object) -> None:
        if self._is_on:
            jax.profiler.stop_trace()
            self._is_on, self._steps = False, None


class Journal:
    """Writes the records of a run that continues after `step`; on the main host alone.

    Lines that a killed run wrote beyond its last checkpoint are taken out, so a step stands in
    metrics.jsonl once.

    Args:
      run_dir: the run's folder.
      step: the step from which the run goes on; 0 for a new one.
      make_tracker: opens what else is to be told, or None.
    """

    def __init__(self, run_dir: Path, step: int, make_tracker: Callable[[], Tracker] | None = None):
        self.run_dir, self._writes = run_dir, hosts.is_main()
        if not self._writes:
            return
        self._tracker = make_tracker() if make_tracker is not None else None
        path = run_dir / "metrics.jsonl"
        if path.exists():
            lines = path.read_text(errors="replace").splitlines(keepends=True)
            partial = run_dir / ".metrics.jsonl"
            partial.write_text("".join(line for line in lines if _is_kept(line, step)))
            partial.replace(path)  # whole or not at all
        self._lines = open(path, "a", buffering=1)  # line by line: a killed run keeps what it wrote
        self._tensorboard = SummaryWriter(str(run_dir), purge_step=step + 1 if step else None)

    def metrics(self, step: int, values: dict[str, float]) -> None:
        """One JSON object a line: the step, then the values."""
        if not self._writes:
            return
        self._lines.write(json.dumps({"step": step, **values}) + "\n")
        for name, value in values.items():
            self._tensorboard.add_scalar(name, value, step)
        if self._tracker is not None:
            self._tracker.metrics(step, values)

    def samples(self, step: int, pixels: UInt8[np.ndarray, "H W C"]) -> None:
        """A grid of samples, as samples/STEP.png and in TensorBoard."""
        if not self._writes:
            return
        path = self.run_dir / "samples" / f"{step}.png"
        save_png(path, pixels, zoom=zoom_for(pixels))
        self._tensorboard.add_image("samples", pixels, step, dataformats="HWC")
        if self._tracker is not None:
            self._tracker.samples(step, pixels)

    def close(self) -> None:
        if not self._writes:
            return
        self._lines.close()
        self._tensorboard.close()
        if self._tracker is not None:
            self._tracker.close()


def _is_kept(line: str, step: int) -> bool:
    try:
        record = json.loads(line)
    except json.JSONDecodeError:  # cut short by a kill
        return False
    return (
        isinstance(record, dict) and isinstance(record.get("step"), int) and record["step"] <= step
    )
