"""Schedules: sigma as a function of time t in [0, 1], from image to noise.

`sigma(t)` and its inverse `time(sigma)` take numpy or jax arrays. `schedule(key, shape) -> sigma`
draws t uniformly between time(sigma_min) and time(sigma_max), for training. `timestep(sigma)`, in
0 .. 999, is the network's c_noise. `Even(schedule)` is a sampling grid of evenly spaced times.

DDPM's alpha_bar is 1 / (1 + sigma^2); its chain of integer timesteps is in `chain`.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from diffusion.noise import continuous
from diffusion.noise.chain import VPChain, VPLinear
from diffusion.noise.sdes import VE, SubVP, VPContinuous
from diffusion.ranges import demand, demand_ascent


@dataclass(frozen=True)
class VPCosine:
    """sqrt(alpha_bar) falls like a cosine; can be shifted for large images.

    sigma = scale * sqrt(cos^2 theta_0 / cos^2 theta - 1),  theta = (t + s) / (1 + s) * pi / 2

    theta_0 is theta at t = 0; with s = 0, sigma = scale * tan(theta).

    Attributes:
      s: offset that keeps beta small near the image, >= 0.
      scale: factor of sigma, > 0; image_size / 64 is the shift of the log-SNR for large images.
      sigma_min, sigma_max: range of sigma; sigma is infinite at t = 1.
    Source: Nichol & Dhariwal 2021, arXiv:2102.09672, equation 17; scale from Hoogeboom et al. 2023,
      arXiv:2301.11093, section 3.1.
    """

    s: float = 0.008
    scale: float = 1.0
    sigma_min: float = 0.002
    sigma_max: float = 160.0

    def __post_init__(self):
        continuous.check_ends(self)
        demand("[0, inf)", s=self.s)
        demand("(0, inf)", scale=self.scale)

    def sigma(self, t: Any) -> Any:
        """sigma at time t in [0, 1)."""
        theta_0, theta = (np.pi / 2 * (t + self.s) / (1 + self.s) for t in (0.0, t))
        # 1 / alpha_bar - 1 = (cos^2 theta_0 - cos^2 theta) / cos^2 theta, without cancellation
        difference = jnp.sin(theta - theta_0) * jnp.sin(theta + theta_0)
        return self.scale * jnp.sqrt(jnp.maximum(difference, 0.0)) / jnp.cos(theta)

    def time(self, sigma: Any) -> Any:
        """The time of a sigma."""
        theta_0 = np.pi / 2 * self.s / (1 + self.s)
        vp = jnp.asarray(sigma) / self.scale
        sine = jnp.sqrt((vp**2 + np.sin(theta_0) ** 2) / (1 + vp**2))
        cosine = np.cos(theta_0) / jnp.sqrt(1 + vp**2)
        return jnp.arctan2(sine, cosine) * 2 / np.pi * (1 + self.s) - self.s

    quantile, timestep = continuous.quantile, continuous.timestep

    def __call__(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        return self.quantile(jax.random.uniform(key, shape, jnp.float32))


@dataclass(frozen=True)
class VPSigmoid:
    """alpha_bar falls like a sigmoid.

    alpha_bar = (v(end) - v(start + (end - start) t)) / (v(end) - v(start)),  v = sigmoid(. / tau)

    Attributes:
      start, end: interval of the sigmoid that is used, start < end.
      tau: temperature, > 0; larger is closer to linear.
      sigma_min, sigma_max: range of sigma; sigma is infinite at t = 1.
    Source: Jabri et al. 2022, arXiv:2212.11972, Algorithm 3.
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0
    sigma_min: float = 0.002
    sigma_max: float = 160.0

    def __post_init__(self):
        continuous.check_ends(self)
        demand("(-inf, inf)", start=self.start, end=self.end)
        demand("(0, inf)", tau=self.tau)
        demand_ascent(start=self.start, end=self.end)

    def _ends(self) -> tuple[float, float]:
        return tuple(1 / (1 + np.exp(-v / self.tau)) for v in (self.start, self.end))

    def sigma(self, t: Any) -> Any:
        """sigma at time t in [0, 1)."""
        first, last = self._ends()
        v = jax.nn.sigmoid((self.start + (self.end - self.start) * t) / self.tau)
        return jnp.sqrt(jnp.maximum(v - first, 0.0) / (last - v))

    def time(self, sigma: Any) -> Any:
        """The time of a sigma."""
        first, last = self._ends()
        share = jnp.square(sigma) / (1 + jnp.square(sigma))  # 1 - alpha_bar
        v = first + share * (last - first)
        return (self.tau * jnp.log(v / (1 - v)) - self.start) / (self.end - self.start)

    quantile, timestep = continuous.quantile, continuous.timestep

    def __call__(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        return self.quantile(jax.random.uniform(key, shape, jnp.float32))


@dataclass(frozen=True)
class Flow:
    """Flow matching's straight path z_t = (1 - t) x_0 + t eps: sigma = scale * t / (1 - t).

    Attributes:
      scale: factor of sigma, > 0; called "timestep shift" for large images.
      sigma_min, sigma_max: range of sigma; sigma is infinite at t = 1.
    Source: Lipman et al. 2022, arXiv:2210.02747; Liu et al. 2022, arXiv:2209.03003; scale from
      Esser et al. 2024, arXiv:2403.03206, equation 23.
    """

    scale: float = 1.0
    sigma_min: float = 0.001
    sigma_max: float = 1000.0

    def __post_init__(self):
        continuous.check_ends(self)
        demand("(0, inf)", scale=self.scale)

    def sigma(self, t: Any) -> Any:
        """sigma at time t in [0, 1)."""
        return self.scale * t / (1 - t)

    def time(self, sigma: Any) -> Any:
        """The time of a sigma."""
        return sigma / (self.scale + sigma)

    quantile, timestep = continuous.quantile, continuous.timestep

    def __call__(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        return self.quantile(jax.random.uniform(key, shape, jnp.float32))


Continuous = VPContinuous | SubVP | VE | VPCosine | VPSigmoid | Flow
Schedule = VPLinear | VPChain | Continuous


def or_ddpm(schedule: Schedule | None) -> Schedule:
    """The schedule, or DDPM's chain if it is None."""
    return VPLinear() if schedule is None else schedule
