"""From noise to images: every sampler is `sampler(denoise, x_T, sigmas, key) -> x_0`.

`key` is one key for the batch or, as a (B,) array, one for each image. With one for each image the
result of an image does not depend on the others, so a batch may be cut anywhere. `trajectory`
returns all x_t. Here are the samplers that step in sigma; those that step in ln(sigma) are in
`dpm`, those that use more than two earlier estimates in `multistep`, the adaptive one in `rk45`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.ranges import demand, demand_ascent
from diffusion.sampling.dpm import DPMSolver, DPMSolver2S, DPMSolverSDE
from diffusion.sampling.loop import BaseSampler
from diffusion.sampling.multistep import AdamsBashforth, UniPC
from diffusion.sampling.rk45 import RK45
from diffusion.sampling.step_context import interpolate
from diffusion.variance import with_variance


@dataclass(frozen=True)
class Euler(BaseSampler):
    """First-order sampler of the probability-flow ODE. On a VP grid it is DDIM.

    x_next = D + sqrt(sigma_next^2 - s^2) (x - D) / sigma + s z,  D = D(x; sigma)
    s = eta sigma_next sqrt(1 - (sigma_next / sigma)^2)

    The step to sigma = 0 returns D itself, so no noise is left.

    Attributes:
      eta: share of the noise that each step draws anew, in [0, 1]; 0 is deterministic, 1 is DDPM
        with its small variance, and k-diffusion's "Euler ancestral".
    Source: Karras et al. 2022, arXiv:2206.00364, equation 4; Song, Meng & Ermon 2020,
      arXiv:2010.02502, equations 12 and 16. nfe = num_steps.
    """

    eta: float = 0.0
    order = 1

    def __post_init__(self):
        demand("[0, 1]", eta=self.eta)

    @property
    def is_deterministic(self) -> bool:
        return self.eta == 0

    def step(self, denoise, x, memory, at):
        # s / sigma_next; 0 where sigma rises, as in inversion
        new = self.eta * jnp.sqrt(jnp.maximum(at.p * (1 + at.q), 0.0))
        old = jnp.sqrt(1 - new**2)
        x_weight, D_weight = at.q * old, at.p + at.q * new**2 / (1 + old)
        x = interpolate(x, denoise(x, at.sigma), x_weight, D_weight)
        return at.add_noise(x, at.sigma_next * new), memory


@dataclass(frozen=True)
class Ancestral(BaseSampler):
    """DDPM's sampler: draws each x from the posterior given x_t and the estimate of x_0.

    mean = r x_t + (1 - r) D(x_t; sigma),  r = (sigma_next / sigma)^2
    small variance = sigma_next^2 (1 - r),  large variance = (1 + sigma_next^2) beta
    with beta = 1 - (1 + sigma_next^2) / (1 + sigma^2), all in units of x_0 + sigma eps.

    Clipping x_0, as DDPM does, is `clip(denoise)`.

    Attributes:
      interpolation: of the log-variance between the small (0, beta_tilde, "fixedsmall") and the
        large one (1, beta, "fixedlarge"), in [0, 1]; None takes what the network has learned, for
        each value of the image.
    Source: Ho et al. 2020, arXiv:2006.11239, Algorithm 2 and section 3.2; interpolation as Nichol
      & Dhariwal 2021, arXiv:2102.09672, equation 15. nfe = num_steps.
    """

    interpolation: float | None = 1.0
    order = 1

    def __post_init__(self):
        if self.interpolation is not None:
            demand("[0, 1]", interpolation=self.interpolation)

    @property
    def is_deterministic(self) -> bool:
        return False

    @property
    def needs_variance(self) -> bool:
        return self.interpolation is None

    def step(self, denoise, x, memory, at):
        sigma, sigma_next = at.sigma, at.sigma_next
        ratio = at.q**2
        if self.interpolation is None:
            D, interpolation = with_variance(denoise, x, sigma)
        else:
            D, interpolation = denoise(x, sigma), self.interpolation
        mean = interpolate(x, D, ratio, at.p * (1 + at.q))
        beta = (sigma - sigma_next) * (sigma + sigma_next) / (1 + sigma**2)
        large = (1 + sigma_next**2) * beta
        small_over_large = ratio * (1 + sigma**2) / (1 + sigma_next**2)
        variance = large * small_over_large ** (1 - interpolation)

        def noisy() -> Array:
            return mean + jnp.sqrt(variance) * at.noise(x)

        return jax.lax.cond(sigma_next > 0, noisy, lambda: mean), memory


@dataclass(frozen=True)
class Heun(BaseSampler):
    """Second-order sampler of the probability-flow ODE; stochastic where `churn > 0`.

    Integrates dx/dsigma = (x - D(x; sigma)) / sigma by the trapezoidal rule, with an Euler step to
    sigma = 0.

    Attributes:
      churn: S_churn, noise added back over the whole run, >= 0; 0 is the pure ODE.
      churn_min, churn_max: S_tmin and S_tmax, the sigmas between which it is added.
      churn_noise: S_noise, standard deviation of that noise; slightly above 1 counters lost detail.
    Source: Karras et al. 2022, arXiv:2206.00364, Algorithm 2. nfe = 2 * num_steps - 1.
    """

    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = 1e9
    churn_noise: float = 1.0
    order = 2

    def __post_init__(self):
        demand("[0, inf)", churn=self.churn, churn_noise=self.churn_noise)
        demand("[0, inf)", churn_min=self.churn_min, churn_max=self.churn_max)
        demand_ascent(churn_min=self.churn_min, churn_max=self.churn_max)

    @property
    def is_deterministic(self) -> bool:
        return self.churn == 0

    def nfe(self, num_steps: int) -> int:
        return 2 * num_steps - 1

    def step(self, denoise, x, memory, at):
        sigma, sigma_next = at.sigma, at.sigma_next
        within = (self.churn_min <= sigma) & (sigma <= self.churn_max)
        gamma = jnp.where(within, jnp.minimum(self.churn / at.num_steps, jnp.sqrt(2.0) - 1), 0.0)
        # sigma_hat^2 - sigma^2 in factors: rounding cannot make it negative
        x = at.add_noise(x, self.churn_noise * sigma * jnp.sqrt(gamma * (2 + gamma)))
        sigma = sigma * (1 + gamma)

        D = denoise(x, sigma)
        x_euler = interpolate(x, D, sigma_next / sigma, (sigma - sigma_next) / sigma)

        def corrected() -> Array:
            slope = (x - D) / sigma
            slope_next = (x_euler - denoise(x_euler, sigma_next)) / sigma_next
            return x + (sigma_next - sigma) * (slope + slope_next) / 2

        return jax.lax.cond(sigma_next > 0, corrected, lambda: x_euler), memory


Sampler = (
    Euler
    | Ancestral
    | Heun
    | DPMSolver2S
    | DPMSolver
    | DPMSolverSDE
    | RK45
    | UniPC
    | AdamsBashforth
)
"""The samplers that a recipe may name. A new one is added here."""
