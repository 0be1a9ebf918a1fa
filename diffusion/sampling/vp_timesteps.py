"""Grids at integer timesteps of a VP chain, as DDPM and diffusers' schedulers walk them."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Array, Float, Real
from scipy.special import betaincinv

from diffusion.noise.chain import Chain
from diffusion.noise.schedules import Schedule, or_ddpm
from diffusion.ranges import demand
from diffusion.sampling.consistency import ConsistencyTimesteps
from diffusion.sampling.grids import (
    Even,
    Exponential,
    FlowTimes,
    Karras,
    as_float32,
    check_num_steps,
)


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
      rounds: whether "linspace" takes whole timesteps; otherwise sigma is interpolated between
        them, as in diffusers' Euler, Heun and LMS.
      last: the grid's end, 0 or "first", the sigma of timestep 0, as diffusers' DDIM and PNDM with
        set_alpha_to_one=False and others with final_sigmas_type="sigma_min". A grid whose last
        timestep is 0 then has one sigma less.
    Source: Song, Meng & Ermon 2020, arXiv:2010.02502, appendix D.3; names as in Lin et al. 2023,
      arXiv:2305.08891, table 2.
    """

    schedule: Schedule | None = None
    spacing: str = "linspace"
    offset: int = 0
    drops_last: bool = False
    rounds: bool = True
    last: str = "zero"

    def __post_init__(self):
        if self.last not in ("zero", "first"):
            raise ValueError(f"last={self.last!r} of VPTimesteps is neither 'zero' nor 'first'.")
        if self.spacing not in ("linspace", "leading", "trailing"):
            raise ValueError(f"spacing={self.spacing!r} is none of linspace, leading, trailing.")
        if self.schedule is not None and not isinstance(self.schedule, Chain):
            raise ValueError(
                f"schedule={self.schedule} has no whole timesteps; use VPLinear or VPChain, or the "
                "grid Even."
            )
        demand("[0, inf)", offset=self.offset)
        if self.offset != int(self.offset):
            raise ValueError(f"offset={self.offset} must be a whole number.")

    @property
    def chain(self) -> Chain:
        """The schedule, or DDPM's chain."""
        chain = or_ddpm(self.schedule)
        assert isinstance(chain, Chain)
        return chain

    def timesteps(self, num_steps: int) -> Real[np.ndarray, "{num_steps}"]:
        """The timesteps, descending; whole numbers unless `rounds` is False."""
        T = self.chain.num_timesteps
        if self.spacing == "trailing":
            return np.round(T - np.arange(num_steps) * T / num_steps).astype(int) - 1
        number = num_steps + 1 if self.drops_last else num_steps
        if self.spacing == "leading":
            steps = np.arange(number)[::-1] * (T // number) + self.offset
        elif self.rounds:
            steps = np.round(np.linspace(T - 1, 0, number)).astype(int)
        else:
            steps = np.linspace(T - 1, 0, number)
        return steps[:num_steps]

    def __call__(self, num_steps: int) -> Float[Array, "S"]:
        check_num_steps(num_steps)
        T = self.chain.num_timesteps
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
        table = self.chain.table
        sigmas = np.interp(timesteps, np.arange(T), table)
        if self.last == "zero":
            return as_float32(self, sigmas)
        above = sigmas[sigmas > table[0]]
        return as_float32(self, above, last=table[0])


def _karras(first: float, last: float, ramp: np.ndarray) -> np.ndarray:
    return (first ** (1 / 7) + ramp * (last ** (1 / 7) - first ** (1 / 7))) ** 7


SPACINGS = {
    "karras": _karras,
    "exponential": lambda first, last, ramp: first * (last / first) ** ramp,
    "beta": lambda first, last, ramp: last + betaincinv(0.6, 0.6, 1 - ramp) * (first - last),
}
"""By name: (first, last, ramp from 0 to 1) -> sigmas."""


@dataclass(frozen=True)
class Respaced:
    """A grid between two sigmas of a chain that is spaced in another way, as diffusers' options.

    Attributes:
      schedule: the chain; None is the recipe's, and DDPM's elsewhere.
      between: "karras" (rho = 7), "exponential", or "beta" (the beta distribution's quantiles, with
        0.6 and 0.6, in sigma).
      spacing, offset: of the `VPTimesteps` whose first and last timestep are the ends, as in
        diffusers' Euler, Heun and LMS.
      is_whole: whether the ends are those of the whole chain instead, as in diffusers' DPM-Solver
        and UniPC.
      last: the grid's end, as of `VPTimesteps`.
    Source: Karras et al. 2022, arXiv:2206.00364, equation 5; Lee et al. 2024, arXiv:2407.12173.
    """

    schedule: Schedule | None = None
    between: str = "karras"
    spacing: str = "linspace"
    offset: int = 0
    is_whole: bool = False
    last: str = "zero"

    def __post_init__(self):
        if self.between not in SPACINGS:
            raise ValueError(f"between={self.between!r} is none of {', '.join(SPACINGS)}.")
        _ = self.timesteps  # which refuses what a grid of timesteps cannot have

    @property
    def timesteps(self) -> VPTimesteps:
        """The grid whose ends these are."""
        return VPTimesteps(self.schedule, self.spacing, self.offset, last=self.last)

    def __call__(self, num_steps: int) -> Float[Array, "S"]:
        check_num_steps(num_steps)
        table = self.timesteps.chain.table
        ends = np.array([len(table) - 1, 0])
        if not self.is_whole:
            ends = self.timesteps.timesteps(num_steps)[[0, -1]]
        first, last = table[ends]
        sigmas = SPACINGS[self.between](first, last, np.linspace(0, 1, num_steps))
        if self.last == "zero":
            return as_float32(self, sigmas)
        return as_float32(self, sigmas[sigmas > table[0] * (1 + 1e-6)], last=table[0])


Grid = Karras | Exponential | Even | FlowTimes | VPTimesteps | Respaced | ConsistencyTimesteps
"""The grids that a recipe may name."""
