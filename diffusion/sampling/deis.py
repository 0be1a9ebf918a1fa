"""DEIS: the noise estimate is a polynomial in ln(sigma), integrated exactly."""

from dataclasses import dataclass, field

import jax.numpy as jnp

from diffusion.ranges import demand
from diffusion.sampling.dpm import moments, polynomial_change
from diffusion.sampling.loop import BaseSampler
from diffusion.sampling.step_context import interpolate


@dataclass(frozen=True)
class DEIS(BaseSampler):
    """Diffusion exponential integrator: eps is a line, or a parabola, in ln(sigma).

    x_next = x + integral of eps d sigma

    `DPMSolver(predicts="eps")` differs in the weight of the line, which it takes as 1/2.

    Attributes:
      order: 2 or 3; order 1 is Euler (DDIM).
      max_ratio: as of `DPMSolver`.
    Source: Zhang & Chen 2022, arXiv:2204.13902, section 3.2 (rho-AB; in ln(rho), as diffusers'
      "logrho"). nfe = num_steps.
    """

    order: int = field(default=2, metadata={"static": True})
    max_ratio: float = 2.0

    def __post_init__(self):
        if self.order not in (2, 3):
            raise ValueError(f"order={self.order} of DEIS is neither 2 nor 3.")
        demand("(0, inf]", max_ratio=self.max_ratio)

    def init(self, x_T):
        return (jnp.zeros_like(x_T),) * (self.order - 1)  # the latest eps, newest first

    def step(self, denoise, x, memory, at):
        D = denoise(x, at.sigma)
        eps = (x - D) / at.sigma
        first, second = moments(at.h)
        first, second = 1 - first, 1 - 2 * first + second  # the weight falls towards sigma_next
        order = at.trusted_order(self.order, self.max_ratio)
        change = polynomial_change(eps, memory, at, order, (first, first, second))
        return interpolate(x, D - at.sigma * change, at.q, at.p), (eps, *memory)[:-1]
