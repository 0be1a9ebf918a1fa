"""The sigma axis: where to train on it, and at which points to sample.

Everything is x_t = x_0 + sigma * eps (Karras et al. 2022). A *training distribution* draws a sigma
for each image, `noise(key, shape) -> sigma`; a *grid* lays out the sampler's way from noise to
image, `grid(num_steps) -> sigmas`, num_steps + 1 values that descend and end in 0.

DDPM's alpha_bar is 1 / (1 + sigma^2). Tables are computed in float64 and handed out as float32.
"""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key


@dataclass(frozen=True)
class LogNormal:
    """Trains where it matters: ln(sigma) is normal.

    Attributes:
      mean: P_mean, of ln(sigma).
      std: P_std, of ln(sigma); > 0.
    Source: Karras et al. 2022, arXiv:2206.00364, table 1 and section 5.
    """

    mean: float = -1.2
    std: float = 1.2

    def __post_init__(self):
        if not 0 < self.std < float("inf"):
            raise ValueError(f"std={self.std} of ln(sigma) must be above 0.")

    def __call__(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        return jnp.exp(self.mean + self.std * jax.random.normal(key, shape))


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

    def __call__(self, key: Key[Array, ""], shape: tuple[int, ...]) -> Float[Array, "..."]:
        timestep = jax.random.randint(key, shape, 0, self.num_timesteps)
        return jnp.asarray(self.table, jnp.float32)[timestep]


@dataclass(frozen=True)
class Karras:
    """A grid whose steps shrink towards the image: sigma ** (1 / rho) is evenly spaced.

    Attributes:
      sigma_min, sigma_max: the last sigma before 0, and the first.
      rho: 1 spaces evenly, larger values put more steps near the image; > 0.
    Source: Karras et al. 2022, arXiv:2206.00364, equation 5.
    """

    sigma_min: float = 0.002
    sigma_max: float = 80.0
    rho: float = 7.0

    def __post_init__(self):
        if not 0 < self.sigma_min < self.sigma_max:
            raise ValueError(
                f"sigma_min={self.sigma_min} must lie between 0 and sigma_max={self.sigma_max}."
            )
        if self.rho <= 0:
            raise ValueError(f"rho={self.rho} must be above 0.")

    def __call__(self, num_steps: int) -> Float[Array, "{num_steps}+1"]:
        _check_num_steps(num_steps)
        ramp = np.linspace(0, 1, num_steps, dtype=np.float64)
        first, last = self.sigma_max ** (1 / self.rho), self.sigma_min ** (1 / self.rho)
        sigmas = (first + ramp * (last - first)) ** self.rho
        return jnp.asarray(np.append(sigmas, 0.0), jnp.float32)


@dataclass(frozen=True)
class VPTimesteps:
    """A grid on the timesteps of a VP chain, evenly spaced from the last to the first, rounded.

    With num_steps = num_timesteps it is the whole chain, as DDPM samples it.

    Attributes:
      chain: the chain on which the network was trained.
    Source: Song, Meng & Ermon 2020, arXiv:2010.02502, appendix D.3, with both ends included
      ("linspace" spacing).
    """

    chain: VPLinear = field(default_factory=VPLinear)

    def __call__(self, num_steps: int) -> Float[Array, "{num_steps}+1"]:
        _check_num_steps(num_steps)
        if num_steps > self.chain.num_timesteps:
            raise ValueError(
                f"num_steps={num_steps} is more than the chain's {self.chain.num_timesteps} "
                "timesteps; use fewer steps."
            )
        timesteps = np.round(np.linspace(self.chain.num_timesteps - 1, 0, num_steps)).astype(int)
        return jnp.asarray(np.append(self.chain.table[timesteps], 0.0), jnp.float32)


def _check_num_steps(num_steps: int) -> None:
    if num_steps < 1:
        raise ValueError(f"num_steps={num_steps} must be 1 or more.")


Noise = LogNormal | VPLinear
Grid = Karras | VPTimesteps
