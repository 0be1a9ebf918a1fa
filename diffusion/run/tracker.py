"""Experiment trackers: Weights & Biases, or trackio, which has the same functions."""

import contextlib
import importlib
import importlib.util
import json
import secrets
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

TRACKERS = ("wandb", "trackio")
PROJECT = "unet-flax"


def check(name: str | None) -> None:
    """Raises a ValueError if the tracker is unknown or not installed; None means no tracker."""
    if name is None:
        return
    if name not in TRACKERS:
        raise ValueError(f"tracker={name!r} is not one of {', '.join(TRACKERS)}, none.")
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"run.tracker={name} needs that package: pip install {name}.")


class TrackerError(Exception):
    """The tracker cannot start; raised before training begins."""


class Tracker:
    """A run in an experiment tracker; a resumed run continues there, and logs each step once.

    The tracker's own settings decide where it stores the run (an account, a server, offline): see
    `wandb login` and WANDB_MODE, or TRACKIO_DIR. If it fails later, training continues: one line
    reports the failure, and metrics.jsonl still has all metrics.

    Args:
      name: "wandb" or "trackio".
      run_dir: the run's folder; its file NAME.json stores the run's id in the tracker and the last
        step that was logged.
      config: the recipe as plain JSON.
    Raises:
      TrackerError: the tracker cannot start, for example without an account.
    """

    def __init__(self, name: str, run_dir: Path, config: dict[str, Any]):
        self._name, self._file = name, run_dir / f"{name}.json"
        stored = {}
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            stored = json.loads(self._file.read_text())
        self._id = stored.get("id", f"{run_dir.name}-{secrets.token_hex(3)}")
        self._last_step, self._has_failed = stored.get("step", 0), False
        own = {"wandb": {"id": self._id, "dir": str(run_dir)}, "trackio": {"embed": False}}
        try:
            self._module: Any = importlib.import_module(name)
            self._module.init(
                project=PROJECT, name=self._id, config=config, resume="allow", **own[name]
            )
            self._store()
        except Exception as error:  # trackers raise their own types
            raise TrackerError(
                f"run.tracker={name} cannot start ({' '.join(str(error).split())[:200]}); log in, "
                "choose its offline mode, or use --run.tracker none."
            ) from error

    def metrics(self, step: int, values: dict[str, float]) -> None:
        if step > self._last_step:
            self._try(lambda: self._module.log(values, step=step))
            self._last_step = step
            self._store()

    def samples(self, step: int, pixels: UInt8[np.ndarray, "H W C"]) -> None:
        if step >= self._last_step:  # the step's metrics are logged before its samples
            image = self._module.Image(pixels.squeeze())
            self._try(lambda: self._module.log({"samples": image}, step=step))

    def close(self) -> None:
        self._try(self._module.finish)

    def _store(self) -> None:
        partial = self._file.with_name(f".{self._file.name}")
        partial.write_text(json.dumps({"id": self._id, "step": self._last_step}))
        partial.replace(self._file)  # atomic

    def _try(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:  # such as a server that does not answer
            if not self._has_failed:
                print(f"{self._name} failed to log ({error}); training continues.", flush=True)
            self._has_failed = True
