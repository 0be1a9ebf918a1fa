"""PNDM: Adams-Bashforth of order 4 with the weights of equal steps ("PLMS")."""

import math
from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.noise.chain import Chain
from diffusion.ranges import demand
from diffusion.sampling.loop import BaseSampler
from diffusion.sampling.step_context import interpolate

WEIGHTS = (
    (1.0, 0.0, 0.0, 0.0),
    (3 / 2, -1 / 2, 0.0, 0.0),
    (23 / 12, -16 / 12, 5 / 12, 0.0),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)
"""Of the latest estimates of eps, the newest first, by their number."""


@dataclass(frozen=True)
class PNDM(BaseSampler):
    """Pseudo linear multistep: the latest estimates of eps, weighted as if all steps were equal.

    The first step is taken again with the mean of the estimates at both its ends, unless it divides
    sigma by more than 10.

    Attributes:
      max_ratio: an estimate is not used if a step since was taken that is more than this many times
        as long in sigma as the one after it; > 0, infinite for the published method.
      lowers_last: whether the step to sigma = 0 returns the estimate D itself, as all samplers here
        do; otherwise it is a step like the others, as in diffusers.
    Source: Liu et al. 2022, arXiv:2202.09778, section 3.3, with the start of diffusers'
      skip_prk_steps. nfe = num_steps + 1. The order is 2 where steps change
      smoothly, 4 where they are equal.
    """

    max_ratio: float = 3.0
    lowers_last: bool = field(default=True, metadata={"static": True})
    order = 2

    def __post_init__(self):
        demand("(0, inf]", max_ratio=self.max_ratio)

    def nfe(self, num_steps: int, *, ends_above_zero: bool = False) -> int:
        return num_steps + (num_steps > 1 or ends_above_zero)

    def init(self, x_T):
        return (jnp.zeros_like(x_T),) * 3  # the latest eps, newest first

    def step(self, denoise, x, memory, at):
        sigma, D = at.sigma, denoise(x, at.sigma)
        eps = (x - D) / sigma

        def again() -> Array:
            """The mean of eps at both ends of the first step."""
            x_next = interpolate(x, D, at.q, at.p)
            eps_next = (x_next - denoise(x_next, at.sigma_next)) / at.sigma_next
            return (eps + eps_next) / 2

        def weighted() -> Array:
            steps = [at.earlier_sigma(ago) - at.sigmas[at.step + 1 - ago] for ago in range(4)]
            usable, number = jnp.bool_(True), jnp.int32(0)
            for later, step in zip(steps, steps[1:], strict=False):
                usable &= (step > 0) & (step <= self.max_ratio * later)
                number += usable
            weights = jnp.asarray(WEIGHTS, x.dtype)[number]
            earlier = zip(weights[1:], memory, strict=True)
            return weights[0] * eps + sum(w * e for w, e in earlier)

        is_long = (at.q < 0.1) & jnp.isfinite(self.max_ratio)  # where the mean misleads
        starts = (at.step == 0) & (at.sigma_next > 0) & ~is_long
        mean = jax.lax.cond(starts, again, weighted)
        estimate = D - sigma * (mean - eps)
        if self.lowers_last:
            estimate = jnp.where(at.sigma_next > 0, estimate, D)
        return interpolate(x, estimate, at.q, at.p), (eps, *memory[:-1])


@dataclass(frozen=True)
class PNDMFromRungeKutta(BaseSampler):
    """`PNDM` whose first three steps are those of Runge and Kutta, of order 4.

    Their middle is halfway in the timesteps of a chain. All steps are as published, also the one to
    sigma = 0.

    Attributes:
      chain: the chain whose timesteps the grid visits.
    Source: Liu et al. 2022, arXiv:2202.09778, Algorithm 2. nfe = num_steps + 9.
    """

    chain: Chain = field(metadata={"static": True})
    order = 2

    def nfe(self, num_steps: int, *, ends_above_zero: bool = False) -> int:
        steps_above_zero = num_steps - (0 if ends_above_zero else 1)
        return num_steps + 3 * min(3, steps_above_zero)

    def init(self, x_T):
        return PNDM().init(x_T)

    def step(self, denoise, x, memory, at):
        sigma = at.sigma

        def from_runge_kutta() -> tuple[Array, tuple[Array, ...]]:
            timestep = (self.chain.index(sigma) + self.chain.index(at.sigma_next)) / 2
            timesteps = jnp.arange(self.chain.num_timesteps, dtype=jnp.float32)
            middle = jnp.interp(timestep, timesteps, jnp.asarray(self.chain.table, jnp.float32))

            def eps_at(slope: Array, end: Array) -> Array:
                x_end = x + (end - sigma) * slope
                return (x_end - denoise(x_end, end)) / end

            D = denoise(x, sigma)
            eps = (x - D) / sigma
            second = eps_at(eps, middle)
            third = eps_at(second, middle)
            fourth = eps_at(third, at.sigma_next)
            mean = (eps + 2 * second + 2 * third + fourth) / 6
            return interpolate(x, D - sigma * (mean - eps), at.q, at.p), (eps, *memory[:-1])

        def multistep() -> tuple[Array, tuple[Array, ...]]:
            published = PNDM(max_ratio=math.inf, lowers_last=False)
            return published.step(denoise, x, memory, at)

        starts = (at.step < 3) & (at.sigma_next > 0)
        return jax.lax.cond(starts, from_runge_kutta, multistep)
