"""Multistep consistency sampling: estimate the image, add noise, estimate again."""

from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.ranges import demand, demand_ascent
from diffusion.sampling.grids import as_float32, check_num_steps
from diffusion.sampling.loop import BaseSampler


@dataclass(frozen=True)
class ConsistencySampler(BaseSampler):
    """x_next = D + sqrt(sigma_next^2 - sigma_min^2) z: every step draws new noise.

    It samples from consistency models, whose estimate is an image already; from other denoisers it
    draws images that lack detail.

    Attributes:
      sigma_min: noise that an estimate is taken to have left, >= 0.
    Source: Song et al. 2023, arXiv:2303.01469, Algorithm 1. nfe = num_steps.
    """

    sigma_min: float = 0.002
    order = 1

    def __post_init__(self):
        demand("[0, inf)", sigma_min=self.sigma_min)

    @property
    def is_deterministic(self) -> bool:
        return False

    def step(self, denoise, x, memory, at):
        above = jnp.maximum(at.sigma_next**2 - self.sigma_min**2, 0.0)
        return at.add_noise(denoise(x, at.sigma), jnp.sqrt(above)), memory


@dataclass(frozen=True)
class ConsistencyTimesteps:
    """A grid of every n-th of the sigmas with which a consistency model was trained.

    They are Karras' grid of num_timesteps values; the first, sigma_max, is always among them.

    Attributes:
      num_timesteps: length of Karras' grid, >= 2.
      sigma_min, sigma_max: its ends.
      rho: as of `Karras`.
    Source: Song et al. 2023, arXiv:2303.01469, section 4; spacing as diffusers'
      CMStochasticIterativeScheduler.
    """

    num_timesteps: int = 40
    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self):
        demand("[2, inf)", num_timesteps=self.num_timesteps)
        demand("(0, inf)", sigma_min=self.sigma_min, sigma_max=self.sigma_max, rho=self.rho)
        demand_ascent(sigma_min=self.sigma_min, sigma_max=self.sigma_max)

    def __call__(self, num_steps: int) -> Float[Array, "{num_steps}+1"]:
        check_num_steps(num_steps)
        if num_steps > self.num_timesteps:
            raise ValueError(
                f"num_steps={num_steps} is more than the {self.num_timesteps} timesteps of the "
                "consistency model; use fewer steps."
            )
        ramp = np.arange(num_steps) * (self.num_timesteps // num_steps) / (self.num_timesteps - 1)
        last = (self.sigma_min / self.sigma_max) ** (1 / self.rho)
        return as_float32(self, self.sigma_max * (1 + ramp * (last - 1)) ** self.rho)
