"""From noise to images: every sampler is `sampler(denoise, x_T, sigmas, key) -> x_0`.

`key` is one key for the batch or, as a (B,) array, one for each image. With one for each image the
result of an image does not depend on the others, so a batch may be cut anywhere. `trajectory` gives
the way instead of its end. `order` is the measured order of convergence: of the probability flow
where no noise is drawn, of the samples' variance where it is. Samplers that step in ln(sigma) are
in `dpm`, those that remember more in `multistep`.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffusion.denoiser import Denoise
from diffusion.ranges import demand, demand_ascent
from diffusion.sampling.dpm import DPM
from diffusion.sampling.loop import Method, OnGrid, as_argument, check_grid
from diffusion.sampling.multistep import MultiStep
from diffusion.sampling.ode import integrate
from diffusion.sampling.step import Keys, Now, toward, with_noise


@dataclass(frozen=True)
class Euler(OnGrid):
    """First-order sampler of the probability-flow ODE. On a VP grid it is DDIM.

    x_next = D + sqrt(sigma_next^2 - s^2) (x - D) / sigma + s z,  D = D(x; sigma)
    s = eta sigma_next sqrt(1 - (sigma_next / sigma)^2)

    The step to sigma = 0 returns D itself, so no noise is left.

    Attributes:
      eta: how much of the noise is drawn anew, in [0, 1]; 0 is deterministic, 1 is DDPM with its
        small variance, and k-diffusion's "Euler ancestral".
    Source: Karras et al. 2022, arXiv:2206.00364, equation 4; Song, Meng & Ermon 2020,
      arXiv:2010.02502, equations 12 and 16. nfe = num_steps.
    """

    eta: float = 0.0
    order = 1

    def __post_init__(self):
        demand("[0, 1]", eta=self.eta)

    @property
    def method(self) -> Method:
        return _EULER

    @property
    def settings(self) -> tuple[float, ...]:
        return (self.eta,)


def _euler(denoise, x, memory, now: Now, settings):
    (eta,) = settings
    # the share of sigma_next that is new noise; none on the way up, which is inversion's
    drawn = eta * jnp.sqrt(jnp.maximum(now.p * (1 + now.q), 0.0))
    of_old = jnp.sqrt(1 - drawn**2)
    kept, taken = now.q * of_old, now.p + now.q * drawn**2 / (1 + of_old)
    x = toward(x, denoise(x, now.sigma), kept, taken)
    return with_noise(x, now.sigma_next * drawn, now), memory


_EULER = Method(_euler)


@dataclass(frozen=True)
class Ancestral(OnGrid):
    """DDPM's sampler: draws each x from the posterior given x_t and the estimate of x_0.

    mean = r x_t + (1 - r) D(x_t; sigma),  r = (sigma_next / sigma)^2
    small variance = sigma_next^2 (1 - r),  large variance = (1 + sigma_next^2) beta
    with beta = 1 - (1 + sigma_next^2) / (1 + sigma^2), all in units of x_0 + sigma eps.

    Clipping x_0, as DDPM does, is `clip(denoise)`.

    Attributes:
      interpolation: of the log-variance between the small (0, beta_tilde, "fixedsmall") and the
        large one (1, beta, "fixedlarge"); in [0, 1].
    Source: Ho et al. 2020, arXiv:2006.11239, Algorithm 2 and section 3.2; interpolation as Nichol
      & Dhariwal 2021, arXiv:2102.09672, equation 15. nfe = num_steps.
    """

    interpolation: float = 1.0
    order = 1

    def __post_init__(self):
        demand("[0, 1]", interpolation=self.interpolation)

    @property
    def method(self) -> Method:
        return _ANCESTRAL

    @property
    def settings(self) -> tuple[float, ...]:
        return (self.interpolation,)


def _ancestral(denoise, x, memory, now: Now, settings):
    (interpolation,) = settings
    sigma, sigma_next = now.sigma, now.sigma_next
    ratio = now.q**2
    mean = toward(x, denoise(x, sigma), ratio, now.p * (1 + now.q))
    beta = (sigma - sigma_next) * (sigma + sigma_next) / (1 + sigma**2)
    large = (1 + sigma_next**2) * beta
    small_over_large = ratio * (1 + sigma**2) / (1 + sigma_next**2)
    variance = large * small_over_large ** (1 - interpolation)
    variance = jnp.where(sigma_next > 0, variance, 0.0)  # no noise on the finished image
    return with_noise(mean, jnp.sqrt(variance), now), memory


_ANCESTRAL = Method(_ancestral)


@dataclass(frozen=True)
class Heun(OnGrid):
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

    def nfe(self, num_steps: int) -> int:
        return 2 * num_steps - 1

    @property
    def method(self) -> Method:
        return _HEUN

    @property
    def settings(self) -> tuple[float, ...]:
        return (self.churn, self.churn_min, self.churn_max, self.churn_noise)


def _heun(denoise, x, memory, now: Now, settings):
    churn, lowest, highest, noise_std = settings
    sigma, sigma_next = now.sigma, now.sigma_next
    within = (lowest <= sigma) & (sigma <= highest)
    gamma = jnp.where(within, jnp.minimum(churn / now.num_steps, jnp.sqrt(2.0) - 1), 0.0)
    # sigma_hat^2 - sigma^2 in factors: rounding cannot make it negative
    x = with_noise(x, noise_std * sigma * jnp.sqrt(gamma * (2 + gamma)), now)
    sigma = sigma * (1 + gamma)

    D = denoise(x, sigma)
    x_euler = toward(x, D, sigma_next / sigma, (sigma - sigma_next) / sigma)

    def corrected() -> Array:
        slope, slope_next = (x - D) / sigma, (x_euler - denoise(x_euler, sigma_next)) / sigma_next
        return x + (sigma_next - sigma) * (slope + slope_next) / 2

    return jax.lax.cond(sigma_next > 0, corrected, lambda: x_euler), memory


_HEUN = Method(_heun)


@dataclass(frozen=True)
class RK45:
    """Adaptive Runge-Kutta of order 5 on the probability-flow ODE in ln(sigma); deterministic.

    Goes from the first sigma of the grid to its last above 0 in steps of its own choosing, for each
    image apart, and from there, where the grid ends in 0, returns D.

    Attributes:
      tolerance: of the error of a step, relative and absolute to each value; > 0.
    Source: as `ode`. nfe is what it comes to, see `count`.
    """

    tolerance: float = 1e-4
    order = 5

    def __post_init__(self):
        demand("(0, 1)", tolerance=self.tolerance)

    def nfe(self, num_steps: int) -> None:
        return None

    def __call__(
        self, denoise: Denoise, x_T: Float[Array, "B ..."], sigmas: Float[Array, "S"], key: Keys
    ) -> Float[Array, "B ..."]:
        return self.count(denoise, x_T, sigmas)[0]

    def count(
        self, denoise: Denoise, x_T: Float[Array, "B ..."], sigmas: Float[Array, "S"]
    ) -> tuple[Float[Array, "B ..."], Int[Array, ""]]:
        """Returns (x_0, nfe)."""
        check_grid(sigmas)
        sigmas = jnp.asarray(sigmas)
        ends_at_0 = sigmas[-1] == 0
        last = jnp.where(ends_at_0, sigmas[-2], sigmas[-1])
        return _rk45(as_argument(denoise), x_T, sigmas[0], last, ends_at_0, self.tolerance)


@jax.jit
def _rk45(denoise, x_T, first, last, ends_at_0, tolerance):
    def slope(s: Array, x: Array) -> Array:  # s = ln(first / sigma)
        return denoise(x, first * jnp.exp(-s)) - x

    x, nfe = integrate(slope, x_T, jnp.log(first / last), tolerance)
    return jax.lax.cond(ends_at_0, lambda: denoise(x, last), lambda: x), nfe + ends_at_0


Sampler = Euler | Ancestral | Heun | DPM | RK45 | MultiStep
