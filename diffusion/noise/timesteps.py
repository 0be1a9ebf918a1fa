"""Timesteps of any schedule: its own where it is a chain, else evenly spaced times."""

import jax
import numpy as np
from jaxtyping import Float

from diffusion.noise.schedules import Schedule, or_ddpm
from diffusion.ranges import demand


def check_length(schedule: Schedule | None, num_timesteps: int | None) -> None:
    """Checks a number of timesteps against a schedule; None is not known yet.

    Raises:
      ValueError: it is below 2, is not the chain's, or is missing where the schedule is no chain.
    """
    if num_timesteps is not None:
        demand("[2, inf)", num_timesteps=num_timesteps)
    if schedule is None:
        return
    own = getattr(schedule, "num_timesteps", None)
    if own is None and num_timesteps is None:
        raise ValueError(
            f"num_timesteps=None, but {type(schedule).__name__} has no timesteps of its own; give "
            "their number, such as 4000."
        )
    if None not in (own, num_timesteps) and own != num_timesteps:
        raise ValueError(f"num_timesteps={num_timesteps}, but the chain has {own}; use none.")


def table(schedule: Schedule | None, num_timesteps: int | None) -> Float[np.ndarray, "T"]:
    """sigma of each timestep, ascending, float64; DDPM's chain where the schedule is None."""
    known = or_ddpm(schedule)
    length = num_timesteps or known.num_timesteps  # pyright: ignore[reportAttributeAccessIssue]
    ends = np.array([known.sigma_min, known.sigma_max])
    with jax.ensure_compile_time_eval(), jax.enable_x64(True):
        first, last = np.asarray(known.time(ends), np.float64)
        return np.array(known.sigma(np.linspace(first, last, length)), np.float64)
