"""RePaint: a sampler that goes back up on its way, so that new parts come to fit known ones."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from diffusion.ranges import demand
from diffusion.sampling.dpm import DPMSolver2S
from diffusion.sampling.loop import Method, OnGrid
from diffusion.sampling.samplers import RK45, Ancestral, Euler, Heun, Sampler
from diffusion.sampling.step import Now

Repeatable = Euler | Ancestral | Heun | DPMSolver2S
"""Samplers that remember nothing from step to step, and so can walk one again."""


@dataclass(frozen=True)
class RePaint(OnGrid):
    """Goes back up and down again on the way, so that what is new comes to fit what is known.

    Each stretch of `jump_length` steps is walked `num_resample` times; going up adds fresh noise.

    Attributes:
      sampler: that walks down; one that remembers nothing from step to step.
      num_resample: r, how often each stretch is walked; 1 is the sampler alone.
      jump_length: j, steps of a stretch.
    Source: Lugmayr et al. 2022, arXiv:2201.09865, Algorithm 1 and section 4.2. Deviation: stretches
      are counted from the noise, and the way up is one jump.
    """

    sampler: Sampler = Ancestral()
    num_resample: int = 10
    jump_length: int = 1

    def __post_init__(self):
        if not isinstance(self.sampler, Repeatable):
            why = "chooses its own" if isinstance(self.sampler, RK45) else "remembers earlier"
            raise ValueError(
                f"{type(self.sampler).__name__} {why} steps, and cannot walk some of them again; "
                "use Euler, Ancestral, Heun or DPMSolver2S."
            )
        demand("[1, inf)", num_resample=self.num_resample, jump_length=self.jump_length)

    @property
    def _down(self) -> Repeatable:
        assert isinstance(self.sampler, Repeatable)
        return self.sampler

    @property
    def order(self) -> int:
        return self._down.order

    def nfe(self, num_steps: int) -> int:
        last_stretch = (num_steps - 1) % self.jump_length + 1
        steps_down = self.num_resample * (num_steps - last_stretch) + last_stretch
        return self._down.nfe(steps_down)

    @property
    def method(self) -> Method:
        step = _up_and_down(self._down.method)
        return Method(step, way=partial(_walk, self.num_resample, self.jump_length))

    @property
    def settings(self) -> tuple[float, ...]:
        return self._down.settings


@cache  # one function for each way down, so that it is compiled once
def _up_and_down(down: Method) -> Callable[..., tuple[Array, Any]]:
    def step(denoise, x, memory, now: Now, settings):
        def rise() -> Array:
            return x + jnp.sqrt(now.sigma_next**2 - now.sigma**2) * now.noise(x)

        def fall() -> Array:
            return down.step(denoise, x, memory, now, settings)[0]

        return jax.lax.cond(now.sigma_next > now.sigma, rise, fall), memory

    return step


def _walk(num_resample: int, jump_length: int, sigmas: Array) -> Array:
    last = len(sigmas) - 1
    walked = [0]
    for start in range(0, last, jump_length):
        landing = min(start + jump_length, last)
        down = range(start + 1, landing + 1)
        times = num_resample if landing < last else 1  # never up from the finished image
        walked += ([*down, start] * times)[:-1]
    return sigmas[np.array(walked)]
