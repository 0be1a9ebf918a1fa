"""Reads a run's averaged weights by name, or makes an average of any width by `reconstruct`."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.run import checkpoint
from diffusion.training.ema import Average, reconstruct


def read(
    folder: Path, ema: Average, target: Any, step: int | None, name: str | None
) -> tuple[Any, int]:
    """Returns the averaged weights, and the step of their checkpoint.

    Args:
      folder: the run's folder.
      ema: the averages that the run keeps.
      target: their shapes, as jax.ShapeDtypeStructs with shardings.
      step: step of the checkpoint; None for the latest.
      name: name of the average, or any sigma_rel if the run keeps power-function averages; None for
        the first average.
    Raises:
      FileNotFoundError: there is no such checkpoint.
      ValueError: there is no such average, or the checkpoint is damaged.
    """
    if name is not None and name not in ema.names:
        return _reconstructed(folder, ema, target, step, name)
    average, step = checkpoint.restore_average(folder, target, step)
    return ema.choose(average, name or ema.names[0]), step


def _reconstructed(
    folder: Path, ema: Average, target: Any, step: int | None, name: str
) -> tuple[Any, int]:
    """Makes a power-function average of another width from all checkpoints up to the step."""
    names, kept = ", ".join(ema.names), ema.sigma_rel_of
    try:
        sigma_rel = float(name)
    except ValueError:
        raise ValueError(f"--ema {name}: this run keeps {names}.") from None
    if not kept:
        raise ValueError(
            f"--ema {name}: this run keeps {names}; other widths can only be made from "
            "power-function averages."
        )
    last = step if step is not None else max(checkpoint.steps(folder), default=None)
    steps = [at for at in checkpoint.steps(folder) if last is not None and at <= last]
    if last not in steps:
        checkpoint.restore_average(folder, target, step)  # raises: the checkpoint does not exist
    assert last is not None
    snapshots = [(at, width) for at in steps for width in kept.values()]
    factors = iter(reconstruct(snapshots, last, sigma_rel).tolist())
    total: Any = None
    for at in steps:
        average, _ = checkpoint.restore_average(folder, target, at)
        for kind in kept:
            factor = next(factors)
            part = jax.tree.map(lambda leaf, f=factor: f * leaf, ema.choose(average, kind))
            total = part if total is None else jax.tree.map(jnp.add, total, part)
    return total, last
