"""Weights & Biases, or trackio, which answers to the same calls: a run's records for a team."""

import importlib
import importlib.util
import secrets
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

TRACKERS = ("wandb", "trackio")
PROJECT = "unet-flax"


def check(name: str) -> None:
    """Raises a ValueError where there is no such tracker, or it is not installed."""
    if name not in TRACKERS:
        raise ValueError(f"tracker={name!r} is none of {', '.join(TRACKERS)}; or use none.")
    if importlib.util.find_spec(name) is None:
        raise ValueError(f"run.tracker={name} needs that package: pip install {name}.")


class Tracker:
    """A run in a tracker; one that goes on is continued there.

    Where records go (an account, a server, offline) is the tracker's own business: see
    `wandb login` and WANDB_MODE, or TRACKIO_DIR.

    Args:
      name: "wandb" or "trackio".
      run_dir: the run's folder, which keeps the name under which the tracker knows it.
      config: the recipe as plain JSON.
    """

    def __init__(self, name: str, run_dir: Path, config: dict[str, Any]):
        mark = run_dir / f"{name}.txt"
        if not mark.exists():
            mark.write_text(f"{run_dir.name}-{secrets.token_hex(3)}")
        known_as = mark.read_text()
        own = {"wandb": {"id": known_as, "dir": str(run_dir)}, "trackio": {"embed": False}}
        self._module: Any = importlib.import_module(name)
        self._module.init(
            project=PROJECT, name=known_as, config=config, resume="allow", **own[name]
        )

    def metrics(self, step: int, values: dict[str, float]) -> None:
        self._module.log(values, step=step)

    def samples(self, step: int, pixels: UInt8[np.ndarray, "H W C"]) -> None:
        self._module.log({"samples": self._module.Image(pixels.squeeze())}, step=step)

    def close(self) -> None:
        self._module.finish()
