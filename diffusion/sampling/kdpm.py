"""KDPM2: the midpoint rule with the middle in ln(sigma)."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.ranges import demand
from diffusion.sampling.loop import BaseSampler
from diffusion.sampling.step_context import interpolate, log_ratio, split_noise


@dataclass(frozen=True)
class KDPM2(BaseSampler):
    """Midpoint rule of the probability-flow ODE; with eta an ancestral sampler.

    x_mid = x + (sigma_mid - sigma) (x - D) / sigma,  sigma_mid = sqrt(sigma sigma_down)
    x_down = x + (sigma_down - sigma) (x_mid - D_mid) / sigma_mid

    and noise is added up to sigma_next, as in `Euler`. It is DPM-Solver-2. A very long step, see
    `StepContext.is_long`, uses D_mid as the estimate, as `DPMSolver2S` does.

    Attributes:
      eta: share of the noise that each step replaces by new noise, in [0, 1]; 0 is deterministic.
      max_ratio: of a step that counts as very long, >= 1; infinite for the published method.
    Source: Karras et al. 2022, arXiv:2206.00364, and Lu et al. 2022, arXiv:2206.00927, Algorithm 1
      with r = 1/2, as k-diffusion's sample_dpm_2 and sample_dpm_2_ancestral.
      nfe = 2 * num_steps - 1.
    """

    eta: float = 0.0
    max_ratio: float = 10.0
    stages = 2

    def __post_init__(self):
        demand("[0, 1]", eta=self.eta)
        demand("[1, inf]", max_ratio=self.max_ratio)

    @property
    def order(self) -> int:
        return 2 if self.eta == 0 else 1

    @property
    def is_deterministic(self) -> bool:
        return self.eta == 0

    def step(self, denoise, x, memory, at):
        sigma, D = at.sigma, denoise(x, at.sigma)
        new, kept = split_noise(self.eta, at.q, at.p)
        down = at.sigma_next * kept

        def second_order() -> Array:
            q_mid = jnp.sqrt(down / sigma)
            p_mid = -jnp.expm1(-log_ratio(sigma, down) / 2)
            x_mid = interpolate(x, D, q_mid, p_mid)
            D_mid = denoise(x_mid, q_mid * sigma)
            # eps_mid - eps = (D - D_mid) / sigma_mid, as a correction of D; on very long steps that
            # rule has a larger error than Euler's, and D_mid itself is the better estimate
            estimate = D + (D_mid - D) / jnp.where(at.is_long(at.q, self.max_ratio), 1.0, q_mid)
            return interpolate(x, estimate, down / sigma, -jnp.expm1(-log_ratio(sigma, down)))

        x = jax.lax.cond(at.sigma_next > 0, second_order, lambda: D)
        return at.add_noise(x, at.sigma_next * new), memory
