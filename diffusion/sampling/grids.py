"""Grids: the sigmas between which a sampler steps, `grid(num_steps) -> sigmas`.

num_steps + 1 values that descend and end in 0, computed in float64 and returned as float32.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import scipy.special
from jaxtyping import Array, Float, Int

from diffusion.noise.chain import Chain
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
        _check_num_steps(num_steps)
        ramp = np.linspace(0, 1, num_steps, dtype=np.float64)
        # in units of sigma_max: its power 1 / rho may overflow
        last = (self.sigma_min / self.sigma_max) ** (1 / self.rho)
        return _as_float32(self, self.sigma_max * (1 + ramp * (last - 1)) ** self.rho)


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
        _check_num_steps(num_steps)
        ramp = np.linspace(1, 0, num_steps, dtype=np.float64) ** self.power
        sigmas = self.sigma_min * (self.sigma_max / self.sigma_min) ** ramp
        return _as_float32(self, sigmas)


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
        _check_num_steps(num_steps)
        u = scipy.special.betaincinv(self.alpha, self.beta, np.linspace(1, 0, num_steps))
        schedule = or_ddpm(self.schedule)
        ends = np.array([schedule.sigma_min, schedule.sigma_max])
        with jax.enable_x64(True):
            first, last = np.asarray(schedule.time(ends), np.float64)
            sigmas = np.array(schedule.sigma(first + u * (last - first)), np.float64)
        sigmas[0] = ends[1]  # exactly, without the rounding of time and back
        return _as_float32(self, sigmas)


@dataclass(frozen=True)
class VPTimesteps:
    """A grid at integer timesteps of a VP chain.

    With num_steps = num_timesteps it is the whole chain, as DDPM samples it.

    Attributes:
      schedule: the chain with which the network was trained; None is the recipe's, and DDPM's
        elsewhere.
      spacing: "linspace" goes from the last timestep to the first; "leading" includes the first but
        not the last; "trailing" includes the last but not the first.
      offset: added to the timesteps of "leading", >= 0; 1 for Stable Diffusion.
      drops_last: whether "linspace" and "leading" space one timestep more and leave out the last,
        as diffusers' DPM-Solver and UniPC do; the step to sigma = 0 then starts from further away.
    Source: Song, Meng & Ermon 2020, arXiv:2010.02502, appendix D.3; names as in Lin et al. 2023,
      arXiv:2305.08891, table 2.
    """

    schedule: Schedule | None = None
    spacing: str = "linspace"
    offset: int = 0
    drops_last: bool = False

    def __post_init__(self):
        if self.spacing not in ("linspace", "leading", "trailing"):
            raise ValueError(f"spacing={self.spacing!r} is none of linspace, leading, trailing.")
        if self.schedule is not None and not isinstance(self.schedule, Chain):
            raise ValueError(
                f"schedule={self.schedule} has no whole timesteps; use VPLinear or VPChain, or the "
                "grid Even."
            )
        demand("[0, inf)", offset=self.offset)

    @property
    def _chain(self) -> Chain:
        chain = or_ddpm(self.schedule)
        assert isinstance(chain, Chain)
        return chain

    def timesteps(self, num_steps: int) -> Int[np.ndarray, "{num_steps}"]:
        """The timesteps, descending."""
        T = self._chain.num_timesteps
        if self.spacing == "trailing":
            return np.round(T - np.arange(num_steps) * T / num_steps).astype(int) - 1
        number = num_steps + 1 if self.drops_last else num_steps
        if self.spacing == "leading":
            steps = np.arange(number)[::-1] * (T // number) + self.offset
        else:
            steps = np.round(np.linspace(T - 1, 0, number)).astype(int)
        return steps[:num_steps]

    def __call__(self, num_steps: int) -> Float[Array, "{num_steps}+1"]:
        _check_num_steps(num_steps)
        T = self._chain.num_timesteps
        number = num_steps + 1 if self.drops_last and self.spacing != "trailing" else num_steps
        if number > T:
            raise ValueError(
                f"num_steps={num_steps} is more than the chain's {T - (number - num_steps)} "
                "timesteps; use fewer steps."
            )
        timesteps = self.timesteps(num_steps)
        if timesteps[0] >= T:
            raise ValueError(
                f"offset={self.offset} leads to timestep {timesteps[0]} in {num_steps} steps, "
                f"beyond the chain's last, {T - 1}; use a smaller offset or fewer steps."
            )
        sigmas = self._chain.table[timesteps]
        return _as_float32(self, sigmas)


def _check_num_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be 1 or more.")


def _as_float32(grid: "Grid", sigmas: np.ndarray) -> Float[Array, "S"]:
    """The sigmas and 0 as float32; raises a ValueError where two become equal or one overflows."""
    with np.errstate(over="ignore"):
        values = np.append(sigmas, 0.0).astype(np.float32)
    if not (np.isfinite(values).all() and (values[1:] < values[:-1]).all()):
        raise ValueError(
            f"{grid} does not descend to 0 in {len(sigmas)} steps: two sigmas are equal in "
            "float32, or one overflows; use fewer steps, or a less extreme spacing."
        )
    return jnp.asarray(values)


Grid = Karras | Exponential | Even | VPTimesteps
