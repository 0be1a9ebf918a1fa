"""A trace of chosen steps, for xprof or Perfetto."""

import math
from pathlib import Path
from typing import Any

import jax


class Profile:
    """A trace of some steps, in RUN_DIR/profile.

    Args:
      steps: first and last; None for no trace.
    """

    def __init__(self, run_dir: Path, steps: tuple[int, int] | None):
        self._folder, self._is_on = run_dir / "profile", False
        self._first, self._last = steps or (math.inf, 0)

    def before(self, done: int, last: int, state: Any) -> None:
        """To be called before the steps done + 1 .. last; waits for the state at both ends."""
        if self._is_on and done >= self._last:
            jax.block_until_ready(state)
            self.close()
        elif not self._is_on and done < self._last and last >= self._first:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self._folder))
            self._is_on = True

    def close(self) -> None:
        if self._is_on:
            jax.profiler.stop_trace()
            self._is_on = False
