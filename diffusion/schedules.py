"""Schedules: sigma as a function of time t in [0, 1], from image to noise.

Training draws its time uniformly, `schedule(key, shape) -> sigma`; `Even(schedule)` samples on even
times; `timestep(sigma)`, 0 .. 999, is what a network is told. `sigma(t)` and its inverse
`time(sigma)` hold for numpy and jax arrays, and times are drawn between those of sigma_min and
sigma_max.

DDPM's alpha_bar is 1 / (1 + sigma^2). Tables are computed in float64 and handed out as float32.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key


@dataclass(frozen=True)
class VPLinear:
    """DDPM's variance-preserving chain with linear beta; training draws its timesteps uniformly.

    alpha_bar_t = prod_{s <= t} (1 - beta_s),  sigma_t = sqrt(1 / alpha_bar_t - 1)

    Attributes:
      num_timesteps: length T of the chain; timesteps are 0 .. T - 1.
      beta_start, beta_end: beta of the first and the last timestep, in (0, 1).
    Source: Ho et al. 2020, arXiv:2006.11239, section 4.
    """

    num_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self):
        if self.num_timesteps < 2:
            raise ValueError(f"num_timesteps={self.num_timesteps} must be 2 or more.")
        if not 0 < self.beta_start <= self.beta_end < 1:
            raise ValueError(
                f"beta_start={self.beta_start} and beta_end={self.beta_end} must ascend in (0, 1)."
            )

    @property
    def table(self) -> Float[np.ndarray, "T"]:
        """sigma of each timestep, ascending, float64."""
        betas = np.linspace(self.beta_start, self.beta_end, self.num_timesteps, dtype=np.float64)
        log_alpha_bar = np.cumsum(np.log1p(-betas))
        return np.sqrt(np.expm1(-log_alpha_bar))

    def timestep(self, sigma: Float[Array, "..."]) -> Float[Array, "..."]:
        """The timestep at which the chain has this sigma, interpolated in ln(sigma).

        A sigma outside the table gives its first or last timestep.
        """
        log_table = np.log(self.table).astype(np.float32)
        return jnp.interp(
            jnp.log(sigma), log_table, np.arange(self.num_timesteps, dtype=np.float32)
        )

    def time(self, sigma: np.ndarray) -> np.ndarray:
        """The timestep of sigma over that of the end, in [0, 1]."""
        return np.interp(np.log(sigma), np.log(self.table), np.linspace(0, 1, self.num_timesteps))

    def sigma(self, t: np.ndarray) -> np.ndarray:
        """sigma at time t in [0, 1], interpolated in ln(sigma)."""
        return np.exp(np.interp(t, np.linspace(0, 1, self.num_timesteps), np.log(self.table)))

    @property
    def sigma_min(self) -> float:
        return float(self.table[0])

    @property
    def sigma_max(self) -> float:
        return float(self.table[-1])

    def quantile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """sigma of the timestep below which a share u of all timesteps lies, u in [0, 1)."""
        timestep = jnp.minimum(jnp.floor(u * self.num_timesteps), self.num_timesteps - 1)
        return jnp.asarray(self.table, jnp.float32)[timestep.astype(jnp.int32)]

    def __call__(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        timestep = jax.random.randint(key, shape, 0, self.num_timesteps)
        return jnp.asarray(self.table, jnp.float32)[timestep]


def _check_range(schedule: "Continuous") -> None:
    if not 0 < schedule.sigma_min < schedule.sigma_max < float("inf"):
        raise ValueError(
            f"sigma_min={schedule.sigma_min} must lie between 0 and sigma_max={schedule.sigma_max}."
        )


def _quantile(schedule: "Continuous", u: Float[Array, "..."]) -> Float[Array, "..."]:
    with jax.ensure_compile_time_eval():  # the ends are numbers, also while a step is traced
        first, last = (float(schedule.time(s)) for s in (schedule.sigma_min, schedule.sigma_max))
    sigma = schedule.sigma(first + u * (last - first))
    return jnp.clip(sigma, schedule.sigma_min, schedule.sigma_max)  # rounding at both ends


def _timestep(schedule: "Continuous", sigma: Float[Array, "..."]) -> Float[Array, "..."]:
    return 999 * schedule.time(jnp.clip(sigma, schedule.sigma_min, schedule.sigma_max))


@dataclass(frozen=True)
class VPContinuous:
    """The VP process in continuous time: beta(t) climbs linearly.

    ln(1 / alpha_bar) = beta_min t + (beta_max - beta_min) t^2 / 2

    Source: Song et al. 2021, arXiv:2011.13456, equation 32 with appendix C.
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    sigma_min: float = 0.002
    sigma_max: float = 150.0

    def __post_init__(self):
        _check_range(self)
        if not 0 < self.beta_min < self.beta_max:
            raise ValueError(f"beta_min={self.beta_min} and beta_max={self.beta_max} must ascend.")

    def sigma(self, t: Any) -> Any:
        """sigma at time t in [0, 1]."""
        return jnp.sqrt(jnp.expm1(_beta_integral(self, t)))

    def time(self, sigma: Any) -> Any:
        """The time of a sigma."""
        return _beta_time(self, jnp.log1p(jnp.square(sigma)))

    quantile, timestep = _quantile, _timestep

    def __call__(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        return self.quantile(jax.random.uniform(key, shape))


def _beta_integral(process: Any, t: Any) -> Any:
    return process.beta_min * t + (process.beta_max - process.beta_min) * t**2 / 2


def _beta_time(process: Any, integral: Any) -> Any:
    slope = process.beta_max - process.beta_min
    root = jnp.sqrt(process.beta_min**2 + 2 * slope * integral)
    return 2 * integral / (process.beta_min + root)


@dataclass(frozen=True)
class SubVP:
    """The sub-VP process: mean as VP's, standard deviation 1 - alpha_bar; sigma = 2 sinh(B / 2).

    Source: Song et al. 2021, arXiv:2011.13456, section 3.4 and equation 29 (B is VP's integral of
      beta).
    """

    beta_min: float = 0.1
    beta_max: float = 20.0
    sigma_min: float = 0.002
    sigma_max: float = 150.0

    def __post_init__(self):
        _check_range(self)
        if not 0 < self.beta_min < self.beta_max:
            raise ValueError(f"beta_min={self.beta_min} and beta_max={self.beta_max} must ascend.")

    def sigma(self, t: Any) -> Any:
        """sigma at time t in [0, 1]."""
        return 2 * jnp.sinh(_beta_integral(self, t) / 2)

    def time(self, sigma: Any) -> Any:
        """The time of a sigma."""
        return _beta_time(self, 2 * jnp.arcsinh(jnp.asarray(sigma) / 2))

    quantile, timestep = _quantile, _timestep

    def __call__(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        return self.quantile(jax.random.uniform(key, shape))


@dataclass(frozen=True)
class VE:
    """The VE process: sigma grows geometrically.

    Source: Song et al. 2021, arXiv:2011.13456, appendix C.
    """

    sigma_min: float = 0.01
    sigma_max: float = 50.0

    def __post_init__(self):
        _check_range(self)

    def sigma(self, t: Any) -> Any:
        """sigma at time t in [0, 1]."""
        return self.sigma_min * jnp.exp(t * np.log(self.sigma_max / self.sigma_min))

    def time(self, sigma: Any) -> Any:
        """The time of a sigma."""
        return jnp.log(sigma / self.sigma_min) / np.log(self.sigma_max / self.sigma_min)

    quantile, timestep = _quantile, _timestep

    def __call__(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        return self.quantile(jax.random.uniform(key, shape))


@dataclass(frozen=True)
class VPCosine:
    """sqrt(alpha_bar) falls like a cosine; shifted for large images.

    sigma = scale * tan(theta) where s = 0,  theta = (t + s) / (1 + s) * pi / 2

    Attributes:
      s: offset that keeps beta small near the image.
      scale: factor of sigma; image_size / 64 shifts the log-SNR as large images need it.
      sigma_min, sigma_max: the ends; at t = 1 the noise would be infinite.
    Source: Nichol & Dhariwal 2021, arXiv:2102.09672, equation 17; scale Hoogeboom et al. 2023,
      arXiv:2301.11093, section 3.1.
    """

    s: float = 0.008
    scale: float = 1.0
    sigma_min: float = 0.002
    sigma_max: float = 160.0

    def __post_init__(self):
        _check_range(self)
        if self.s < 0 or self.scale <= 0:
            raise ValueError(f"s={self.s} must be 0 or more, and scale={self.scale} above 0.")

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

    quantile, timestep = _quantile, _timestep

    def __call__(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        return self.quantile(jax.random.uniform(key, shape))


@dataclass(frozen=True)
class VPSigmoid:
    """alpha_bar falls like a sigmoid.

    alpha_bar = (v(end) - v(start + (end - start) t)) / (v(end) - v(start)),  v = sigmoid(. / tau)

    Attributes:
      start, end: part of the sigmoid that is used.
      tau: temperature; larger is closer to linear.
      sigma_min, sigma_max: the ends; at t = 1 the noise would be infinite.
    Source: Jabri et al. 2022, arXiv:2212.11972, Algorithm 3.
    """

    start: float = -3.0
    end: float = 3.0
    tau: float = 1.0
    sigma_min: float = 0.002
    sigma_max: float = 160.0

    def __post_init__(self):
        _check_range(self)
        if self.start >= self.end or self.tau <= 0:
            raise ValueError(
                f"start={self.start} and end={self.end} must ascend, and tau={self.tau} be above 0."
            )

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

    quantile, timestep = _quantile, _timestep

    def __call__(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        return self.quantile(jax.random.uniform(key, shape))


@dataclass(frozen=True)
class Flow:
    """Flow matching's straight line z_t = (1 - t) x_0 + t eps: sigma = scale * t / (1 - t).

    Attributes:
      scale: factor of sigma, "timestep shift" for large images.
      sigma_min, sigma_max: the ends; at t = 1 the noise would be infinite.
    Source: Lipman et al. 2022, arXiv:2210.02747; Liu et al. 2022, arXiv:2209.03003; scale Esser et
      al. 2024, arXiv:2403.03206, equation 23.
    """

    scale: float = 1.0
    sigma_min: float = 0.001
    sigma_max: float = 1000.0

    def __post_init__(self):
        _check_range(self)
        if self.scale <= 0:
            raise ValueError(f"scale={self.scale} must be above 0.")

    def sigma(self, t: Any) -> Any:
        """sigma at time t in [0, 1)."""
        return self.scale * t / (1 - t)

    def time(self, sigma: Any) -> Any:
        """The time of a sigma."""
        return sigma / (self.scale + sigma)

    quantile, timestep = _quantile, _timestep

    def __call__(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        return self.quantile(jax.random.uniform(key, shape))


Continuous = VPContinuous | SubVP | VE | VPCosine | VPSigmoid | Flow
Schedule = VPLinear | Continuous
