"""Functions that all schedules in continuous time share: checks, quantiles and timesteps.

A schedule has a function `sigma(t)` of time t in [0, 1] and its inverse `time(sigma)`; both take
numpy or jax arrays. Training draws t uniformly between time(sigma_min) and time(sigma_max).
"""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.ranges import demand, demand_ascent


@runtime_checkable
class Continuous(Protocol):
    """The members of a schedule that the functions below use."""

    @property
    def sigma_min(self) -> float: ...

    @property
    def sigma_max(self) -> float: ...

    def sigma(self, t: Any) -> Any: ...

    def time(self, sigma: Any) -> Any: ...


def check_ends(schedule: Continuous) -> None:
    """Raises a ValueError unless 0 < sigma_min < sigma_max < inf."""
    demand("(0, inf)", sigma_min=schedule.sigma_min, sigma_max=schedule.sigma_max)
    demand_ascent(sigma_min=schedule.sigma_min, sigma_max=schedule.sigma_max)


def quantile(schedule: Continuous, u: Float[Array, "..."]) -> Float[Array, "..."]:
    """The u-quantile of sigma over uniformly drawn times, u in [0, 1]."""
    with jax.ensure_compile_time_eval():  # both times are numbers, even inside a traced function
        first, last = (float(schedule.time(s)) for s in (schedule.sigma_min, schedule.sigma_max))
    sigma = schedule.sigma(first + u * (last - first))
    sigma = jnp.clip(sigma, schedule.sigma_min, schedule.sigma_max)  # rounding can exceed the ends
    return sigma.astype(jnp.result_type(u))  # under x64, numpy's constants make it float64


def timestep(schedule: Continuous, sigma: Float[Array, "..."]) -> Float[Array, "..."]:
    """999 * time(sigma); sigma is clipped to [sigma_min, sigma_max]."""
    clipped = jnp.clip(sigma, schedule.sigma_min, schedule.sigma_max)
    return (999 * schedule.time(clipped)).astype(clipped.dtype)
