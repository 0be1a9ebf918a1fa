"""Averaged weights of a run by name, or of any width from its power-function averages."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from diffusion.run import checkpoint
from diffusion.training.ema import Average, reconstruct


def read(
    folder: Path, ema: Average, target: Any, step: int | None, name: str | None
) -> tuple[Any, int]:
    """The weights, and the step of their checkpoint.

    Args:
      folder: the run's.
      ema: how the run averages.
      target: what it keeps, as jax.ShapeDtypeStructs with shardings.
      step: of the checkpoint; None for the latest.
      name: of the average, or any sigma_rel where power-function averages are kept; None for the
        first.
    Raises:
      FileNotFoundError: no such checkpoint.
      ValueError: no such average; a damaged checkpoint.
    """
    if name is not None and name not in ema.names:
        return _reconstructed(folder, ema, target, step, name)
    average, step = checkpoint.restore_average(folder, target, step)
    return ema.choose(average, name or ema.names[0]), step


def _reconstructed(
    folder: Path, ema: Average, target: Any, step: int | None, name: str
) -> tuple[Any, int]:
    """A power-function average that was not kept, from those of all checkpoints up to the step."""
    names, kept = ", ".join(ema.names), ema.sigma_rel_of
    try:
        sigma_rel = float(name)
    except ValueError:
        raise ValueError(f"--ema {name}: this run keeps {names}.") from None
    if not kept:
        raise ValueError(
            f"--ema {name}: this run keeps {names}; other widths can be made from power-function "
            "averages alone."
        )
    last = step if step is not None else max(checkpoint.steps(folder), default=None)
    steps = [at for at in checkpoint.steps(folder) if last is not None and at <= last]
    if last not in steps:
        checkpoint.restore_average(folder, target, step)  # raises, and names what is missing
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
