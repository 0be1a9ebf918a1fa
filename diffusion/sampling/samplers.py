"""From noise to images: every sampler is `sampler(denoise, x_T, sigmas, key) -> x_0`.

`key` is one key for the batch or, as a (B,) array, one for each image. With one for each image the
result of an image does not depend on the others, so a batch may be cut anywhere. `trajectory`
returns all x_t. Here are DDPM's and Heun's; each of the others has a file of its own.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.adjusted import with_variance
from diffusion.ranges import demand
from diffusion.sampling.churn import add_churn, check_churn
from diffusion.sampling.consistency import ConsistencySampler
from diffusion.sampling.deis import DEIS
from diffusion.sampling.dpm import DPMSolver, DPMSolver2S
from diffusion.sampling.dpm_sde import DPMSolverSDE, DPMSolverSDE2S
from diffusion.sampling.euler import Euler
from diffusion.sampling.kdpm import KDPM2
from diffusion.sampling.loop import BaseSampler
from diffusion.sampling.multistep import AdamsBashforth, UniPC
from diffusion.sampling.pndm import PNDM
from diffusion.sampling.predictor_corrector import PredictorCorrector
from diffusion.sampling.rk45 import RK45
from diffusion.sampling.sa_solver import SASolver
from diffusion.sampling.singlestep import DPMSolverSinglestep
from diffusion.sampling.step_context import interpolate


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
    sigma = 0. In flow time t = sigma / (1 + sigma) the rule integrates z = x / (1 + sigma) instead,
    which is better in few steps. Very long steps, as the first one on grids of flows, are always
    taken in flow time, see `StepContext.is_long`: in sigma their error is far above Euler's.

    Attributes:
      time: "sigma" (EDM) or "flow" (FlowMatchHeun), the variable of the trapezoidal rule.
      churn: S_churn, noise added back over the whole run, >= 0; 0 is the pure ODE.
      churn_min, churn_max: S_tmin and S_tmax, the sigmas between which it is added.
      churn_noise: S_noise, standard deviation of that noise; slightly above 1 counters lost detail.
      max_ratio: of a step in sigma that counts as very long, >= 1; infinite for the published
        method.
    Source: Karras et al. 2022, arXiv:2206.00364, Algorithm 2. nfe = 2 * num_steps - 1.
    """

    time: str = field(default="sigma", metadata={"static": True}, kw_only=True)
    churn: float = 0.0
    churn_min: float = 0.0
    churn_max: float = 1e9
    churn_noise: float = 1.0
    max_ratio: float = 10.0
    order = 2
    stages = 2

    def __post_init__(self):
        check_churn(self)
        if self.time not in ("sigma", "flow"):
            raise ValueError(f"time={self.time!r} of Heun is neither 'sigma' nor 'flow'.")
        demand("[1, inf]", max_ratio=self.max_ratio)

    @property
    def is_deterministic(self) -> bool:
        return self.churn == 0

    def step(self, denoise, x, memory, at):
        (x, sigma), sigma_next = add_churn(self, x, at), at.sigma_next
        D = denoise(x, sigma)
        q, p = sigma_next / sigma, (sigma - sigma_next) / sigma
        x_euler = interpolate(x, D, q, p)

        def corrected() -> Array:
            D_next = denoise(x_euler, sigma_next)
            weight = (1 + sigma_next) / (2 * q * (1 + sigma))
            in_flow_time = interpolate(x, D + weight * (D_next - D), q, p)
            if self.time == "flow":
                return in_flow_time
            slope, slope_next = (x - D) / sigma, (x_euler - D_next) / sigma_next
            in_sigma = x + (sigma_next - sigma) * (slope + slope_next) / 2
            return jnp.where(at.is_long(q, self.max_ratio), in_flow_time, in_sigma)

        return jax.lax.cond(sigma_next > 0, corrected, lambda: x_euler), memory


Sampler = (
    Euler
    | Ancestral
    | Heun
    | DPMSolver2S
    | DPMSolver
    | DPMSolverSinglestep
    | DPMSolverSDE
    | DPMSolverSDE2S
    | RK45
    | UniPC
    | AdamsBashforth
    | PNDM
    | DEIS
    | KDPM2
    | SASolver
    | PredictorCorrector
    | ConsistencySampler
)
"""The samplers that a recipe may name. A new one is added here."""
