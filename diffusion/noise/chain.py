"""DDPM's chain: sigma at integer timesteps.

DDPM's alpha_bar is 1 / (1 + sigma^2). The table is computed in float64, and used as float32.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from diffusion.ranges import demand


@dataclass(frozen=True)
class VPLinear:
    """DDPM's variance-preserving chain with linear beta; training draws its timesteps uniformly.

    alpha_bar_t = prod_{s <= t} (1 - beta_s),  sigma_t = sqrt(1 / alpha_bar_t - 1)

    Attributes:
      num_timesteps: length T of the chain, >= 2; timesteps are 0 .. T - 1.
      beta_start, beta_end: beta of the first and the last timestep, in (0, 1), not descending.
    Source: Ho et al. 2020, arXiv:2006.11239, section 4.
    """

    num_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self):
        demand("[2, inf)", num_timesteps=self.num_timesteps)
        demand("(0, 1)", beta_start=self.beta_start, beta_end=self.beta_end)
        if self.beta_start > self.beta_end:
            raise ValueError(
                f"beta_start={self.beta_start} must not be above beta_end={self.beta_end}."
            )

    @property
    def table(self) -> Float[np.ndarray, "T"]:
        """sigma of each timestep, ascending, float64."""
        betas = np.linspace(self.beta_start, self.beta_end, self.num_timesteps, dtype=np.float64)
        log_alpha_bar = np.cumsum(np.log1p(-betas))
        return np.sqrt(np.expm1(-log_alpha_bar))

    def timestep(self, sigma: Float[Array, "..."]) -> Float[Array, "..."]:
        """The timestep at which the chain has this sigma, interpolated in ln(sigma).

        For a sigma outside the table it is the first or the last timestep.
        """
        log_table = np.log(self.table).astype(np.float32)
        return jnp.interp(
            jnp.log(sigma), log_table, np.arange(self.num_timesteps, dtype=np.float32)
        )

    def time(self, sigma: np.ndarray) -> np.ndarray:
        """The time of a sigma in [0, 1]: its timestep divided by the last one."""
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
        """The u-quantile of sigma over uniformly drawn timesteps, u in [0, 1)."""
        timestep = jnp.minimum(jnp.floor(u * self.num_timesteps), self.num_timesteps - 1)
        return jnp.asarray(self.table, jnp.float32)[timestep.astype(jnp.int32)]

    def __call__(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        timestep = jax.random.randint(key, shape, 0, self.num_timesteps, jnp.int32)
        return jnp.asarray(self.table, jnp.float32)[timestep]
