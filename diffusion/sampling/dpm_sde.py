"""DPM-Solver++ for the reverse SDE: the steps of `dpm` with new noise in each step.

x_next = q^(1 + eta) x + (1 - q^(1 + eta)) D' + sigma_next sqrt(1 - q^(2 eta)) z

The step to sigma = 0 returns D itself, so no noise is left.

Source: Lu et al. 2022, "DPM-Solver++", arXiv:2211.01095, appendix.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.ranges import demand
from diffusion.sampling.dpm import polynomial_change
from diffusion.sampling.loop import BaseSampler
from diffusion.sampling.step_context import interpolate, log_ratio, split_noise


@dataclass(frozen=True)
class DPMSolverSDE(BaseSampler):
    """DPM-Solver++ SDE 2M: the second-order multistep for the reverse SDE, which draws noise.

    Attributes:
      eta: amount of noise, >= 0; 1 is the reverse SDE, 0 is DPM-Solver++ 2M.
      max_ratio: as of `DPMSolver`.
    Source: Lu et al. 2022, arXiv:2211.01095, appendix (SDE-DPM-Solver++ 2M). nfe = num_steps.
    """

    eta: float = 1.0
    max_ratio: float = 2.0

    def __post_init__(self):
        demand("[0, inf)", eta=self.eta)
        demand("(0, inf]", max_ratio=self.max_ratio)

    @property
    def order(self) -> int:
        return 2 if self.eta == 0 else 1

    @property
    def is_deterministic(self) -> bool:
        return self.eta == 0

    def init(self, x_T):
        return (jnp.zeros_like(x_T),)  # the estimate of the step before

    def step(self, denoise, x, memory, at):
        D = denoise(x, at.sigma)
        order = at.trusted_order(2, self.max_ratio)
        estimate = D + polynomial_change(D, memory, at, order, (0.5, 0.0, 0.0))
        x_weight, D_weight = at.q ** (1 + self.eta), -jnp.expm1(-(1 + self.eta) * at.h)
        x = interpolate(x, estimate, x_weight, D_weight)
        return at.add_noise(x, at.sigma_next * jnp.sqrt(-jnp.expm1(-2 * self.eta * at.h))), (D,)


@dataclass(frozen=True)
class DPMSolverSDE2S(BaseSampler):
    """DPM-Solver++ SDE by a second estimate in the middle of the step, in ln(sigma).

    k-diffusion's "DPM++ SDE". Both parts of a step go from x to a sigma_down without noise, and add
    noise up to theirs:

    sigma_down = sigma_to sqrt(1 - n^2),  n = eta sqrt(1 - (sigma_to / sigma)^2), at most 1

    Their noises are those of one Brownian motion in sigma, so they are correlated.

    Attributes:
      eta: share of the noise that each part replaces by new noise, in [0, 1]; 0 is `DPMSolver2S`.
    Source: k-diffusion, sample_dpmpp_sde with r = 1/2; Lu et al. 2022, arXiv:2211.01095, Algorithm
      1 and appendix. nfe = 2 * num_steps - 1.
    """

    eta: float = 1.0
    stages = 2
    num_noises = 2

    def __post_init__(self):
        demand("[0, 1]", eta=self.eta)

    @property
    def order(self) -> int:
        return 2 if self.eta == 0 else 1

    @property
    def is_deterministic(self) -> bool:
        return self.eta == 0

    def step(self, denoise, x, memory, at):
        D, sigma, sigma_next = denoise(x, at.sigma), at.sigma, at.sigma_next

        def part(sigma_to: Array, estimate: Array) -> tuple[Array, Array]:
            new, kept = split_noise(self.eta, sigma_to / sigma, (sigma - sigma_to) / sigma)
            down = sigma_to * kept
            x_down = interpolate(x, estimate, down / sigma, -jnp.expm1(-log_ratio(sigma, down)))
            return x_down, sigma_to * new

        def second_order() -> Array:
            sigma_mid = sigma * jnp.sqrt(at.q)
            early, late = at.noise(x, 0), at.noise(x, 1)
            share = jnp.sqrt((sigma - sigma_mid) / (sigma - sigma_next))
            x_mid, std = part(sigma_mid, D)
            x_next, std_next = part(sigma_next, denoise(x_mid + std * early, sigma_mid))
            return x_next + std_next * (share * early + jnp.sqrt(1 - share**2) * late)

        return jax.lax.cond(sigma_next > 0, second_order, lambda: D), memory
