"""What all schedules in continuous time share: ends on the sigma axis, quantiles and timesteps.

A schedule is a function `sigma(t)` of time t in [0, 1] with its inverse `time(sigma)`, of numpy and
jax arrays. Times are drawn between those of sigma_min and sigma_max.
"""

from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.ranges import demand, demand_ascent


@runtime_checkable
class Continuous(Protocol):
    """A schedule, as the functions below see it."""

    @property
    def sigma_min(self) -> float: ...

    @property
    def sigma_max(self) -> float: ...

    def sigma(self, t: Any) -> Any: ...

    def time(self, sigma: Any) -> Any: ...


def check_ends(schedule: Continuous) -> None:
    """Raises a ValueError unless sigma_min and sigma_max are finite, above 0, and ascend."""
    demand("(0, inf)", sigma_min=schedule.sigma_min, sigma_max=schedule.sigma_max)
    demand_ascent(sigma_min=schedule.sigma_min, sigma_max=schedule.sigma_max)


def quantile(schedule: Continuous, u: Float[Array, "..."]) -> Float[Array, "..."]:
    """sigma below which a share u of uniformly drawn times lies, u in [0, 1]."""
    with jax.ensure_compile_time_eval():  # the ends are numbers, also while a step is traced
        first, last = (float(schedule.time(s)) for s in (schedule.sigma_min, schedule.sigma_max))
    sigma = schedule.sigma(first + u * (last - first))
    return jnp.clip(sigma, schedule.sigma_min, schedule.sigma_max)  # rounding at both ends


def timestep(schedule: Continuous, sigma: Float[Array, "..."]) -> Float[Array, "..."]:
    """999 times the time of a sigma, between those of sigma_min and sigma_max."""
    return 999 * schedule.time(jnp.clip(sigma, schedule.sigma_min, schedule.sigma_max))
