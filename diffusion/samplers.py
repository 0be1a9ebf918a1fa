"""From noise to images: every sampler is `sampler(denoise, x_T, sigmas, key) -> x_0`.

Each is one jitted scan over the grid. A denoise that is a pytree (`Denoiser`, guidance around it)
passes its arrays as arguments, so new weights, labels, seeds or sampler settings compile nothing
anew; any other function is compiled for itself.

`key` is one key for the batch or, as a (B,) array, one for each image. With one for each image the
result of an image does not depend on the others, so a batch may be cut anywhere.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key

from diffusion.denoiser import Denoise

Keys = Key[Array, ""] | Key[Array, "B"]


def _argument(denoise: Denoise) -> Any:
    """A pytree as it is; a plain function as a leafless pytree that is equal only to itself."""
    return jax.tree_util.Partial(denoise) if jax.tree_util.all_leaves([denoise]) else denoise


def _unit_noise(key: Keys, step: Array | int, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    if key.ndim == 0:
        return jax.random.normal(jax.random.fold_in(key, step), x.shape, x.dtype)
    return jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, step), x.shape[1:], x.dtype))(
        key
    )


def _scan(step: Callable, x_T: Array, sigmas: Float[Array, "S"]) -> Array:
    """Folds step(x, index, sigma, sigma_next) over the grid."""
    grid = (jnp.arange(len(sigmas) - 1), sigmas[:-1], sigmas[1:])
    x_0, _ = jax.lax.scan(lambda x, now: (step(x, *now), None), x_T, grid)
    return x_0


@dataclass(frozen=True)
class Euler:
    """First-order sampler of the probability-flow ODE; deterministic. On a VP grid it is DDIM.

    x_next = x + (sigma_next - sigma) * (x - D(x; sigma)) / sigma

    The step to sigma = 0 returns D itself, so no noise is left.

    Source: Karras et al. 2022, arXiv:2206.00364, equation 4; Song, Meng & Ermon 2020,
      arXiv:2010.02502, equation 12 with eta = 0. nfe = num_steps.
    """

    order = 1

    def nfe(self, num_steps: int) -> int:
        return num_steps

    def __call__(
        self, denoise: Denoise, x_T: Float[Array, "B ..."], sigmas: Float[Array, "S"], key: Keys
    ) -> Float[Array, "B ..."]:
        return _euler(_argument(denoise), x_T, sigmas)


@jax.jit
def _euler(denoise: Denoise, x_T: Array, sigmas: Array) -> Array:
    def step(x, index, sigma, sigma_next):
        return x + (sigma_next - sigma) * (x - denoise(x, sigma)) / sigma

    return _scan(step, x_T, sigmas)


@dataclass(frozen=True)
class Ancestral:
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
        if not 0 <= self.interpolation <= 1:
            raise ValueError(f"interpolation={self.interpolation} is outside [0, 1].")

    def nfe(self, num_steps: int) -> int:
        return num_steps

    def __call__(
        self, denoise: Denoise, x_T: Float[Array, "B ..."], sigmas: Float[Array, "S"], key: Keys
    ) -> Float[Array, "B ..."]:
        return _ancestral(_argument(denoise), x_T, sigmas, key, self.interpolation)


@jax.jit
def _ancestral(
    denoise: Denoise, x_T: Array, sigmas: Array, key: Keys, interpolation: Array
) -> Array:
    def step(x, index, sigma, sigma_next):
        ratio = jnp.square(sigma_next / sigma)
        mean = ratio * x + (1 - ratio) * denoise(x, sigma)
        beta = (sigma**2 - sigma_next**2) / (1 + sigma**2)
        large = (1 + sigma_next**2) * beta
        small_over_large = jnp.square(sigma_next / sigma) * (1 + sigma**2) / (1 + sigma_next**2)
        variance = large * small_over_large ** (1 - interpolation)
        variance = jnp.where(sigma_next > 0, variance, 0.0)  # no noise on the finished image
        return mean + jnp.sqrt(variance) * _unit_noise(key, index, x)

    return _scan(step, x_T, sigmas)


@dataclass(frozen=True)
class Heun:
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
        if self.churn < 0 or self.churn_noise < 0:
            raise ValueError(
                f"churn={self.churn} and churn_noise={self.churn_noise} must be 0 or more."
            )
        if not 0 <= self.churn_min <= self.churn_max:
            raise ValueError(
                f"churn_min={self.churn_min} must lie between 0 and churn_max={self.churn_max}."
            )

    def nfe(self, num_steps: int) -> int:
        return 2 * num_steps - 1

    def __call__(
        self, denoise: Denoise, x_T: Float[Array, "B ..."], sigmas: Float[Array, "S"], key: Keys
    ) -> Float[Array, "B ..."]:
        churn = (self.churn, self.churn_min, self.churn_max, self.churn_noise)
        return _heun(_argument(denoise), x_T, sigmas, key, churn)


@jax.jit
def _heun(
    denoise: Denoise, x_T: Array, sigmas: Array, key: Keys, churn: tuple[Array, ...]
) -> Array:
    num_steps = len(sigmas) - 1
    amount, lowest, highest, noise_std = churn

    def churned(x, index, sigma):
        within = (lowest <= sigma) & (sigma <= highest)
        gamma = jnp.where(within, jnp.minimum(amount / num_steps, jnp.sqrt(2.0) - 1), 0.0)
        # sigma_hat^2 - sigma^2 in factors: rounding cannot make it negative
        added = noise_std * sigma * jnp.sqrt(gamma * (2 + gamma))
        return x + added * _unit_noise(key, index, x), sigma * (1 + gamma)

    def step(x, index, sigma, sigma_next):
        x, sigma = churned(x, index, sigma)
        slope = (x - denoise(x, sigma)) / sigma
        x_euler = x + (sigma_next - sigma) * slope
        slope_next = (x_euler - denoise(x_euler, sigma_next)) / sigma_next
        return x + (sigma_next - sigma) * (slope + slope_next) / 2

    x = _scan(step, x_T, sigmas[:-1])
    x, sigma = churned(x, num_steps - 1, sigmas[-2])
    return denoise(x, sigma)  # the Euler step to sigma = 0


Sampler = Euler | Ancestral | Heun
