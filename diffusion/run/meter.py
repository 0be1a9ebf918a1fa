"""Measurements during training: mean metrics, speed, and faults that must stop the run."""

import time
from collections import deque

import jax
import numpy as np
from jaxtyping import Array

from diffusion.run.hardware import memory_gib
from diffusion.training.step import LEVELS

DispatchMetrics = tuple[dict[str, Array], int]
"""The metrics of one dispatch, and its number of steps.

Those of several steps are stacked along a first axis; rows after the number of steps are unused.
"""


class Meter:
    """Means of the metrics, and images per second, since the last `read`.

    `add` does not wait for the device; `read` does.

    Args:
      batch_size: images in a step.
      max_skipped_steps: number of steps that can be skipped in a row without a fault. Half of the
        last 20 * max_skipped_steps steps can be skipped too.
      peak_images_per_second: speed at the devices' peak FLOP/s, or None if that is unknown.
    Attributes:
      fault: why the run must stop, judged by the steps read so far, or None. A fault stays: weights
        that are not finite cannot recover, and must not be saved.
    """

    def __init__(
        self,
        batch_size: int,
        max_skipped_steps: int = 5,
        peak_images_per_second: float | None = None,
    ):
        self._batch_size, self._peak = batch_size, peak_images_per_second
        self._metrics: list[DispatchMetrics] = []
        self.fault: str | None = None
        self._max_skipped, self._in_a_row = max_skipped_steps, 0
        self._latest: deque[bool] = deque(maxlen=20 * max(1, max_skipped_steps))
        self.restart_clock()

    def add(self, metrics: list[DispatchMetrics]) -> None:
        """Adds the metrics of some steps."""
        self._metrics += metrics
        self._timed_steps += sum(steps for _, steps in metrics)

    def restart_clock(self) -> None:
        """Excludes the time until now from the speed, such as that of compiling or sampling."""
        self._since, self._timed_steps = time.perf_counter(), 0

    def read(self) -> dict[str, float]:
        """Returns the means over the steps since the last `read`, except skipped ones.

        "images_per_second" is missing if no step was timed, and "loss" if all were skipped.
        "flops_utilization" is the share of the devices' half-precision peak, if that is known.
        """
        fetched = jax.device_get(self._metrics)

        def joined(name: str, *shape: int) -> np.ndarray:
            parts = (np.reshape(part[name], (-1, *shape))[:steps] for part, steps in fetched)
            return np.concatenate(list(parts))

        skipped = joined("skipped")
        self._check_finite(skipped, joined("weight_norm"))
        taken, values = skipped == 0, {}
        if taken.any():
            names = fetched[0][0].keys() - {"skipped", *_LEVELS}
            for name in sorted(names, key=lambda name: (name != "loss", name)):
                values[name] = float(joined(name)[taken].mean())
            if fetched[0][0].keys() >= {*_LEVELS}:  # of denoisers
                sums, counts = (joined(name, len(LEVELS) + 1)[taken].sum(0) for name in _LEVELS)
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

    def _check_finite(self, skipped: np.ndarray, weight_norm: np.ndarray) -> None:
        for is_skipped in skipped:
            self._in_a_row = self._in_a_row + 1 if is_skipped else 0
            self._latest.append(bool(is_skipped))
            if self._in_a_row > self._max_skipped:
                self.fault = f"loss or gradient was not finite in {self._in_a_row} steps in a row"
            elif 2 * sum(self._latest) > (self._latest.maxlen or 0):
                self.fault = (
                    f"loss or gradient was not finite in {sum(self._latest)} of "
                    f"{len(self._latest)} steps"
                )
        if not np.isfinite(weight_norm).all():
            self.fault = "weights are not finite"


_LEVELS = ("level_sums", "level_counts")
_LEVEL_NAMES = (
    f"below_{LEVELS[0]:g}",
    *(f"{low:g}_to_{high:g}" for low, high in zip(LEVELS, LEVELS[1:], strict=False)),
    f"above_{LEVELS[-1]:g}",
)
