"""The forward processes of score-based models in continuous time: VP, sub-VP and VE.

Source: Song et al. 2021, arXiv:2011.13456.
"""

import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from diffusion.noise import continuous
from diffusion.ranges import demand, demand_ascent


@dataclass(frozen=True)
class VPContinuous:
    """The VP process in continuous time: beta(t) rises linearly.

    ln(1 / alpha_bar) = beta_min t + (beta_max - beta_min) t^2 / 2,  sigma^2 = 1 / alpha_bar - 1

    Attributes:
      beta_min, beta_max: beta at t = 0 and t = 1, 0 < beta_min < beta_max.
      sigma_min, sigma_max: range of sigma; sigma_max must be reached by t = 1.
    Source: Song et al. 2021, arXiv:2011.13456, equation 32 with appendix C.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    sigma_min: float = 0.002
    sigma_max: float = 150.0

    def __post_init__(self):
        _check_betas(self, 2 * math.log(math.hypot(1, self.sigma_max)))

    def sigma(self, t: Any) -> Any:
        """sigma at time t in [0, 1]."""
        return jnp.sqrt(jnp.expm1(_beta_integral(self, t)))

    def time(self, sigma: Any) -> Any:
        """The time of a sigma."""
        return _beta_time(self, jnp.log1p(jnp.square(sigma)))

    quantile, timestep = continuous.quantile, continuous.timestep

    def __call__(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        return self.quantile(jax.random.uniform(key, shape, jnp.float32))


def _check_betas(process: "VPContinuous | SubVP", needed: float) -> None:
    """Raises a ValueError if the integral of beta up to t = 1 is less than sigma_max needs."""
    continuous.check_ends(process)
    demand("(0, inf)", beta_min=process.beta_min, beta_max=process.beta_max)
    demand_ascent(beta_min=process.beta_min, beta_max=process.beta_max)
    reached = process.beta_min / 2 + process.beta_max / 2
    if needed > reached:
        raise ValueError(
            f"sigma_max={process.sigma_max} lies beyond t = 1: it needs beta_min + beta_max of "
            f"{2 * needed:.4g} or more, not {2 * reached:.4g}; lower sigma_max, or raise beta_max."
        )


def _beta_integral(process: Any, t: Any) -> Any:
    return process.beta_min * t + (process.beta_max - process.beta_min) * t**2 / 2


def _beta_time(process: Any, integral: Any) -> Any:
    slope = process.beta_max - process.beta_min
    root = jnp.sqrt(process.beta_min**2 + 2 * slope * integral)
    return 2 * integral / (process.beta_min + root)


@dataclass(frozen=True)
class SubVP:
    """The sub-VP process: mean as VP's, standard deviation 1 - alpha_bar; sigma = 2 sinh(B / 2).

    B = beta_min t + (beta_max - beta_min) t^2 / 2, the integral of beta

    Attributes:
      beta_min, beta_max: beta at t = 0 and t = 1, 0 < beta_min < beta_max.
      sigma_min, sigma_max: range of sigma; sigma_max must be reached by t = 1.
    Source: Song et al. 2021, arXiv:2011.13456, section 3.4 and equation 29.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    sigma_min: float = 0.002
    sigma_max: float = 150.0

    def __post_init__(self):
        _check_betas(self, 2 * math.asinh(self.sigma_max / 2))

    def sigma(self, t: Any) -> Any:
        """sigma at time t in [0, 1]."""
        return 2 * jnp.sinh(_beta_integral(self, t) / 2)

    def time(self, sigma: Any) -> Any:
        """The time of a sigma."""
        return _beta_time(self, 2 * jnp.arcsinh(jnp.asarray(sigma) / 2))

    quantile, timestep = continuous.quantile, continuous.timestep

    def __call__(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        return self.quantile(jax.random.uniform(key, shape, jnp.float32))


@dataclass(frozen=True)
class VE:
    """The VE process: sigma = sigma_min (sigma_max / sigma_min)^t.

    Attributes:
      sigma_min, sigma_max: sigma at t = 0 and t = 1.
    Source: Song et al. 2021, arXiv:2011.13456, appendix C.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self):
        continuous.check_ends(self)

    def sigma(self, t: Any) -> Any:
        """sigma at time t in [0, 1]."""
        return self.sigma_min * jnp.exp(t * np.log(self.sigma_max / self.sigma_min))

    def time(self, sigma: Any) -> Any:
        """The time of a sigma."""
        return jnp.log(sigma / self.sigma_min) / np.log(self.sigma_max / self.sigma_min)

    quantile, timestep = continuous.quantile, continuous.timestep

    def __call__(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        return self.quantile(jax.random.uniform(key, shape, jnp.float32))
