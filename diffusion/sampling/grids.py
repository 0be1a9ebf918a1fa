"""Grids: the sigmas between which a sampler steps, `grid(num_steps) -> sigmas`.

num_steps + 1 values that descend and end in 0, computed in float64 and returned as float32.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float

from diffusion.noise.schedules import Schedule, or_ddpm
from diffusion.ranges import demand, demand_ascent


@dataclass(frozen=True)
class Karras:
    """A grid with smaller steps at smaller sigma: sigma ** (1 / rho) is evenly spaced.

    Attributes:
      sigma_min, sigma_max: the last sigma before 0, and the first.
      rho: > 0; 1 spaces sigma evenly, larger values put more steps at small sigma.
    Source: Karras et al. 2022, arXiv:2206.00364, equation 5.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self):
        demand("(0, inf)", sigma_min=self.sigma_min, sigma_max=self.sigma_max)
        demand_ascent(sigma_min=self.sigma_min, sigma_max=self.sigma_max)
        demand("(0, inf)", rho=self.rho)

    def __call__(self, num_steps: int) -> Float[Array, "{num_steps}+1"]:
        check_num_steps(num_steps)
        ramp = np.linspace(0, 1, num_steps, dtype=np.float64)
        # in units of sigma_max: its power 1 / rho may overflow
        last = (self.sigma_min / self.sigma_max) ** (1 / self.rho)
        return as_float32(self, self.sigma_max * (1 + ramp * (last - 1)) ** self.rho)


@dataclass(frozen=True)
class Exponential:
    """A grid that is even in ln(sigma): each step divides sigma by the same number.

    Attributes:
      sigma_min, sigma_max: the last sigma before 0, and the first.
      power: > 0; 1 is even, above 1 puts more steps at small sigma ("polyexponential").
    Source: Lu et al. 2022, arXiv:2206.00927, section 3.4 (uniform in lambda).
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    power: float = 1.0

    def __post_init__(self):
        demand("(0, inf)", sigma_min=self.sigma_min, sigma_max=self.sigma_max)
        demand_ascent(sigma_min=self.sigma_min, sigma_max=self.sigma_max)
        demand("(0, inf)", power=self.power)

    def __call__(self, num_steps: int) -> Float[Array, "{num_steps}+1"]:
        check_num_steps(num_steps)
        ramp = np.linspace(1, 0, num_steps, dtype=np.float64) ** self.power
        sigmas = self.sigma_min * (self.sigma_max / self.sigma_min) ** ramp
        return as_float32(self, sigmas)


@dataclass(frozen=True)
class Even:
    """A grid at evenly spaced times of a schedule, from its sigma_max to its sigma_min.

    Attributes:
      schedule: sigma as a function of time; None is the recipe's, and DDPM's chain elsewhere.
      alpha, beta: parameters of the beta distribution whose quantiles are the times, > 0; 1 and 1
        space them evenly, values below 1 put more steps at the ends.
    Source: for alpha and beta Lee et al. 2024, arXiv:2407.12173 ("beta sampling", 0.6 and 0.6).
    """

    schedule: Schedule | None = None
    alpha: float = 1.0
    beta: float = 1.0

    def __post_init__(self):
        demand("(0, inf)", alpha=self.alpha, beta=self.beta)

    def __call__(self, num_steps: int) -> Float[Array, "{num_steps}+1"]:
        check_num_steps(num_steps)
        u = scipy.special.betaincinv(self.alpha, self.beta, np.linspace(1, 0, num_steps))
        schedule = or_ddpm(self.schedule)
        ends = np.array([schedule.sigma_min, schedule.sigma_max])
        with jax.enable_x64(True):
            first, last = np.asarray(schedule.time(ends), np.float64)
            sigmas = np.array(schedule.sigma(first + u * (last - first)), np.float64)
        sigmas[0] = ends[1]  # exactly, without the rounding of time and back
        return as_float32(self, sigmas)


@dataclass(frozen=True)
class FlowTimes:
    """A grid at evenly spaced flow times t = sigma / (1 + sigma), from noise down to t_min.

    t <- shift t / (1 + (shift - 1) t) puts more steps at large t. `Even(Flow())` ends at the
    schedule's sigma_min instead.

    Attributes:
      shift: > 0; called "timestep shift", for large images.
      t_min: the last time before 0, shifted already; in (0, 1).
    Source: Esser et al. 2024, arXiv:2403.03206, equation 23; as diffusers'
      FlowMatchEulerDiscreteScheduler, whose t_min is 1 / 1000, shifted once before this shift.
      Deviation: the first t is 0.99999, where sigma is finite, and not 1.
    """

    shift: float = 1.0
    t_min: float = 0.001

    def __post_init__(self):
        demand("(0, inf)", shift=self.shift)
        demand("(0, 1)", t_min=self.t_min)

    def __call__(self, num_steps: int) -> Float[Array, "{num_steps}+1"]:
        check_num_steps(num_steps)
        t = np.linspace(1, self.t_min, num_steps)
        t = np.minimum(self.shift * t / (1 + (self.shift - 1) * t), 0.99999)
        return as_float32(self, t / (1 - t))


def check_num_steps(num_steps: int) -> None:
    if not isinstance(num_steps, int | np.integer) or num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be a whole number, 1 or more.")


def as_float32(grid: Any, sigmas: np.ndarray, last: float = 0.0) -> Float[Array, "S"]:
    """The sigmas and the last as float32.

    Raises:
      ValueError: two of them become equal, or one overflows.
    """
    with np.errstate(over="ignore"):
        values = np.append(sigmas, last).astype(np.float32)
    if not (np.isfinite(values).all() and (values[1:] < values[:-1]).all()):
        raise ValueError(
            f"{grid} does not descend to {last:.4g} in {len(sigmas)} steps: two sigmas are equal "
            "in float32, or one overflows; use fewer steps, or a less extreme spacing."
        )
    return jnp.asarray(values)
