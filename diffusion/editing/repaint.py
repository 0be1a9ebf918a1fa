"""RePaint: a sampler that repeats steps, so that a redrawn part comes to fit the known one."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.ranges import demand
from diffusion.sampling.loop import BaseSampler
from diffusion.sampling.samplers import Ancestral


@dataclass(frozen=True)
class RePaint(BaseSampler):
    """Runs every `jump_length` steps of a sampler `num_resample` times, adding noise in between.

    x_t at sigma goes back to a higher sigma by x_t + sqrt(sigma_higher^2 - sigma^2) z

    Attributes:
      sampler: one that has no memory and is not adaptive, such as `Ancestral` or `Heun`.
      num_resample: r, how often each stretch of steps is run; 1 is the sampler alone.
      jump_length: j, number of steps of a stretch.
    Source: Lugmayr et al. 2022, arXiv:2201.09865, Algorithm 1 and section 4.2. Deviation: stretches
      are counted from the noise, and the noise of a jump is added at once.
    """

    # no field is static: num_resample and jump_length change the path alone, not the compiled step
    sampler: BaseSampler = Ancestral()
    num_resample: int = 10
    jump_length: int = 1

    def __post_init__(self):
        if self.sampler.is_adaptive or self.sampler.has_memory:
            why = "is adaptive" if self.sampler.is_adaptive else "has memory of earlier steps"
            raise ValueError(
                f"{type(self.sampler).__name__} {why}, and cannot repeat steps; use a sampler "
                "without, such as Euler, Ancestral, Heun or DPMSolver2S."
            )
        demand("[1, inf)", num_resample=self.num_resample, jump_length=self.jump_length)

    @property
    def order(self) -> int:
        return self.sampler.order

    @property
    def is_deterministic(self) -> bool:
        return False

    @property
    def needs_variance(self) -> bool:
        return self.sampler.needs_variance

    def nfe(self, num_steps: int, *, ends_above_zero: bool = False) -> int | None:
        last_stretch = (num_steps - 1) % self.jump_length + 1
        steps_down = self.num_resample * (num_steps - last_stretch) + last_stretch
        return self.sampler.nfe(steps_down, ends_above_zero=ends_above_zero)

    def path(self, sigmas):
        last = len(sigmas) - 1
        indices = [0]
        for start in range(0, last, self.jump_length):
            end = min(start + self.jump_length, last)
            stretch = range(start + 1, end + 1)
            times = self.num_resample if end < last else 1  # the finished image stays
            indices += ([*stretch, start] * times)[:-1]
        return sigmas[np.array(indices)]

    def init(self, x_T):
        return self.sampler.init(x_T)

    def step(self, denoise, x, memory, at):
        def jump_back() -> Array:
            return x + jnp.sqrt(at.sigma_next**2 - at.sigma**2) * at.noise(x)

        def denoise_step() -> Array:
            return self.sampler.step(denoise, x, memory, at)[0]

        return jax.lax.cond(at.sigma_next > at.sigma, jump_back, denoise_step), memory
