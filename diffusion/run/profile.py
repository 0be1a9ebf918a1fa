"""Profiler traces of chosen steps, for xprof or Perfetto."""

import math
from pathlib import Path
from typing import Any

import jax


class Profile:
    """Writes a trace of some steps to RUN_DIR/profile.

    Args:
      run_dir: the run's folder.
      steps: first and last step; None for no trace.
    """

    def __init__(self, run_dir: Path, steps: tuple[int, int] | None):
        self._folder, self._is_on = run_dir / "profile", False
        self._first, self._last = steps or (math.inf, 0)

    def before(self, step: int, last: int, state: Any) -> None:
        """Starts or stops the trace; call it before steps step + 1 .. last.

        Waits for the state where the trace starts and stops, so that it holds the chosen steps.
        """
        if self._is_on and step >= self._last:
            jax.block_until_ready(state)
            self.close()
        elif not self._is_on and step < self._last and last >= self._first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self._folder))
            self._is_on = True

    def close(self) -> None:
        if self._is_on:
            jax.profiler.stop_trace()
            self._is_on = False
