"""Weights & Biases, or trackio, which answers to the same calls: a run's records for a team."""

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
    """Raises a ValueError where there is no such tracker, or it is not installed; None is none."""
    if name is None:
        return
    if name not in TRACKERS:
        raise ValueError(f"tracker={name!r} is none of {', '.join(TRACKERS)}; or use none.")
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"run.tracker={name} needs that package: pip install {name}.")


class Refused(Exception):
    """A tracker that cannot be told anything, known before the training."""


class Tracker:
    """A run in a tracker; one that goes on is continued there, and no step is told twice.

    Where records go (an account, a server, offline) is the tracker's own business: see
    `wandb login` and WANDB_MODE, or TRACKIO_DIR. One that fails later on does not end the training:
    a line says so, and what it missed is in metrics.jsonl.

    Args:
      name: "wandb" or "trackio".
      run_dir: the run's folder, which keeps the name under which the tracker knows it, and the last
        step that it was told.
      config: the recipe as plain JSON.
    Raises:
      Refused: it cannot begin, as without an account.
    """

    def __init__(self, name: str, run_dir: Path, config: dict[str, Any]):
        self._name, self._mark = name, run_dir / f"{name}.json"
        known = {}
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            known = json.loads(self._mark.read_text())
        self._id = known.get("id", f"{run_dir.name}-{secrets.token_hex(3)}")
        self._told, self._has_failed = known.get("step", 0), False
        own = {"wandb": {"id": self._id, "dir": str(run_dir)}, "trackio": {"embed": False}}
        try:
            self._module: Any = importlib.import_module(name)
            self._module.init(
                project=PROJECT, name=self._id, config=config, resume="allow", **own[name]
            )
            self._remember()
        except Exception as error:  # of whatever kind this tracker's are
            raise Refused(
                f"run.tracker={name} cannot begin ({' '.join(str(error).split())[:200]}); log in, "
                "choose its offline mode, or use --run.tracker none."
            ) from error

    def metrics(self, step: int, values: dict[str, float]) -> None:
        if step > self._told:
            self._tell(lambda: self._module.log(values, step=step))
            self._told = step
            self._remember()

    def samples(self, step: int, pixels: UInt8[np.ndarray, "H W C"]) -> None:
        if step >= self._told:  # its metrics are told before
            image = self._module.Image(pixels.squeeze())
            self._tell(lambda: self._module.log({"samples": image}, step=step))

    def close(self) -> None:
        self._tell(self._module.finish)

    def _remember(self) -> None:
        partial = self._mark.with_name(f".{self._mark.name}")
        partial.write_text(json.dumps({"id": self._id, "step": self._told}))
        partial.replace(self._mark)  # whole or not at all

    def _tell(self, what: Callable[[], Any]) -> None:
        try:
            what()
        except Exception as error:  # a server that is away
            if not self._has_failed:
                print(f"{self._name} was not told ({error}); the training goes on.", flush=True)
            self._has_failed = True
