"""Distributions of sigma in training: `noise(key, shape) -> sigma`, a noise level for each image.

x_t = x_0 + sigma * eps (Karras et al. 2022). A schedule is such a distribution too: its times are
drawn uniformly.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from diffusion.noise.importance import ImportanceSampled
from diffusion.noise.schedules import Schedule, or_ddpm
from diffusion.ranges import demand


@dataclass(frozen=True)
class LogNormal:
    """ln(sigma) is normal: most training is at intermediate noise levels.

    Attributes:
      mean: P_mean, the mean of ln(sigma).
      std: P_std, the standard deviation of ln(sigma); > 0.
    Source: Karras et al. 2022, arXiv:2206.00364, table 1 and section 5.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self):
        demand("(-inf, inf)", mean=self.mean)
        demand("(0, inf)", std=self.std)

    def quantile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """The u-quantile of sigma, u in (0, 1)."""
        return jnp.exp(self.mean + self.std * jax.scipy.special.ndtri(u))

    def __call__(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        return jnp.exp(self.mean + self.std * jax.random.normal(key, shape, jnp.float32))


@dataclass(frozen=True)
class LogitNormal:
    """logit(t) of the flow time t is normal; sigma = t / (1 - t) = exp(logit(t)).

    This is LogNormal under the name used in flow matching.

    Attributes:
      mean: mean of logit(t).
      std: standard deviation of logit(t); > 0.
    Source: Esser et al. 2024, arXiv:2403.03206, section 3.1.
    """

    mean: float = 0.0
    std: float = 1.0

    def __post_init__(self):
        demand("(-inf, inf)", mean=self.mean)
        demand("(0, inf)", std=self.std)

    def quantile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """The u-quantile of sigma, u in (0, 1)."""
        return LogNormal(self.mean, self.std).quantile(u)

    def __call__(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        return LogNormal(self.mean, self.std)(key, shape)


@dataclass(frozen=True)
class UniformTime:
    """Draws times uniformly on a schedule, as DDPM draws its timesteps.

    Attributes:
      schedule: maps time to sigma; None takes the recipe's schedule, and is DDPM's chain elsewhere.
    Source: Ho et al. 2020, arXiv:2006.11239, Algorithm 1.
    """

    schedule: Schedule | None = None

    def quantile(self, u: Float[Array, "..."]) -> Float[Array, "..."]:
        """The u-quantile of sigma, u in (0, 1)."""
        return or_ddpm(self.schedule).quantile(u)

    def __call__(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        return or_ddpm(self.schedule)(key, shape)


@dataclass(frozen=True)
class Stratified:
    """Stratified draws: each batch covers the distribution evenly, for a loss of lower variance.

    sigma_i = quantile(u_i),  u_i = (u_0 + i / B) mod 1, in random order

    Attributes:
      noise: the distribution.
    Source: Kingma et al. 2021, arXiv:2107.00630, appendix I.1.
    """

    noise: LogNormal | LogitNormal | UniformTime | Schedule = field(default_factory=LogNormal)

    def __call__(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        offset_key, order_key = jax.random.split(key)
        size = int(np.prod(shape))
        offset = jax.random.uniform(offset_key, (), jnp.float32)
        u = (offset + jnp.arange(size, dtype=jnp.float32) / size) % 1.0
        u = jnp.clip(u, 1e-6, 1 - 1e-6)  # the quantiles of 0 and 1 can be 0 and infinite
        return self.noise.quantile(jax.random.permutation(order_key, u)).reshape(shape)


Noise = LogNormal | LogitNormal | UniformTime | Stratified | ImportanceSampled | Schedule
