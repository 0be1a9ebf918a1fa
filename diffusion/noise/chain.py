"""Chains of integer timesteps, as DDPM's: sigma at each timestep 0 .. T - 1.

alpha_bar_t = prod_{s <= t} (1 - beta_s),  sigma_t = sqrt(1 / alpha_bar_t - 1)

The table of sigma is computed in float64, and used as float32. A network that was trained on a
chain is given the timestep itself; `VPCosine` and the other schedules in continuous time differ
from their chains by up to one timestep.
"""

from dataclasses import dataclass
from functools import cached_property

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from diffusion.ranges import demand


class Chain:
    """What all chains share; each states `num_timesteps` and `betas`."""

    num_timesteps: int
    zero_terminal_snr: bool = False
    terminal_sigma: float = 4096.0
    timestep_rounding: str | None = None
    timestep_scale: float = 1.0

    @property
    def betas(self) -> Float[np.ndarray, "T"]:
        """beta of each timestep, float64."""
        raise NotImplementedError

    @cached_property
    def table(self) -> Float[np.ndarray, "T"]:
        """sigma of each timestep, ascending, float64."""
        log_alpha_bar = np.cumsum(np.log1p(-self.betas))
        if self.zero_terminal_snr:
            log_alpha_bar = _to_zero_snr(log_alpha_bar, self.terminal_sigma)
        return np.sqrt(np.expm1(-log_alpha_bar))

    def index(self, sigma: Float[Array, "..."]) -> Float[Array, "..."]:
        """The timestep, from 0 to T - 1, at which the chain has this sigma, linear in ln(sigma).

        For a sigma outside the table it is the first or the last timestep.
        """
        log_table = np.log(self.table).astype(np.float32)
        return jnp.interp(
            jnp.log(sigma), log_table, np.arange(self.num_timesteps, dtype=np.float32)
        )

    def timestep(self, sigma: Float[Array, "..."]) -> Float[Array, "..."]:
        """The network's c_noise: the timestep, rounded and scaled as this chain says."""
        index = self.index(sigma)
        if self.timestep_rounding == "nearest":
            index = jnp.round(index)
        elif self.timestep_rounding == "down":
            index = jnp.floor(jnp.maximum(index - 0.001, 0.0))
        return index * self.timestep_scale

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


def _to_zero_snr(
    log_alpha_bar: Float[np.ndarray, "T"], terminal_sigma: float
) -> Float[np.ndarray, "T"]:
    """Shifts and scales sqrt(alpha_bar) so that the last is 0; Lin et al. 2023, Algorithm 1.

    In place of 0 the last one is that of terminal_sigma.
    """
    root = np.exp(log_alpha_bar / 2)
    root = (root - root[-1]) * root[0] / (root[0] - root[-1])
    return 2 * np.log(np.maximum(root, 1 / np.hypot(1, terminal_sigma)))


@dataclass(frozen=True)
class VPLinear(Chain):
    """DDPM's variance-preserving chain with linear beta; training draws its timesteps uniformly.

    It is `VPChain` with beta_schedule="linear".

    Attributes:
      num_timesteps: length T of the chain, >= 2; timesteps are 0 .. T - 1.
      beta_start, beta_end: beta of the first and the last timestep, in (0, 1), not descending.
    Source: Ho et al. 2020, arXiv:2006.11239, section 4.
    """

    num_timesteps: int = 1000
    beta_start: float = 1e-4
    beta_end: float = 0.02

    def __post_init__(self):
        _check_range(self)

    @property
    def betas(self) -> Float[np.ndarray, "T"]:
        return np.linspace(self.beta_start, self.beta_end, self.num_timesteps, dtype=np.float64)


def _cosine(T: int, start: float, end: float) -> Float[np.ndarray, "T"]:
    alpha_bar = np.cos((np.arange(T + 1) / T + 0.008) / 1.008 * np.pi / 2) ** 2
    return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)


def _sigmoid(T: int) -> Float[np.ndarray, "T"]:
    return 1 / (1 + np.exp(-np.linspace(-6, 6, T)))


BETA_SCHEDULES = {
    "linear": lambda T, start, end: np.linspace(start, end, T),
    "scaled_linear": lambda T, start, end: np.linspace(start**0.5, end**0.5, T) ** 2,
    "squaredcos_cap_v2": _cosine,
    "sigmoid": lambda T, start, end: start + (end - start) * _sigmoid(T),
}
"""By diffusers' names: (T, beta_start, beta_end) -> betas, float64."""


@dataclass(frozen=True)
class VPChain(Chain):
    """A variance-preserving chain from any betas; training draws its timesteps uniformly.

    Attributes:
      num_timesteps: length T of the chain, >= 2; timesteps are 0 .. T - 1.
      beta_schedule: the betas, by diffusers' names: "linear"; "scaled_linear", linear in sqrt(beta)
        (Stable Diffusion); "squaredcos_cap_v2", from iDDPM's cosine alpha_bar with beta <= 0.999,
        which ignores beta_start and beta_end; "sigmoid", a sigmoid from -6 to 6 between the two
        ends (GeoDiff).
      beta_start, beta_end: beta of the first and the last timestep, in (0, 1), not descending.
      given: the betas themselves, T values in (0, 1); then beta_schedule and the ends are not used.
      zero_terminal_snr: whether sqrt(alpha_bar) is shifted so that nothing is left of the image at
        the last timestep; needs a network that predicts v or x_0.
      terminal_sigma: sigma at the last timestep of such a chain, in place of infinity; > 0.
      timestep_rounding: how the network's timestep is rounded for a sigma between two timesteps:
        "nearest", or "down" to the one strictly below, as diffusers' DPM-Solver and UniPC do on
        some grids; None interpolates.
      timestep_scale: c_noise is the timestep times this, > 0; 1000 / T for improved DDPM.
    Source: Nichol & Dhariwal 2021, arXiv:2102.09672, equation 17 (cosine); Rombach et al. 2022,
      arXiv:2112.10752 (scaled); Lin et al. 2023, arXiv:2305.08891, Algorithm 1 (zero SNR).
    """

    num_timesteps: int = 1000
    beta_schedule: str = "linear"
    beta_start: float = 1e-4
    beta_end: float = 0.02
    given: tuple[float, ...] | None = None
    zero_terminal_snr: bool = False
    terminal_sigma: float = 4096.0
    timestep_rounding: str | None = None
    timestep_scale: float = 1.0

    def __post_init__(self):
        demand("(0, inf)", timestep_scale=self.timestep_scale)
        demand("(0, inf)", terminal_sigma=self.terminal_sigma)
        if self.timestep_rounding not in (None, "nearest", "down"):
            raise ValueError(
                f"timestep_rounding={self.timestep_rounding!r} is none of nearest, down, None."
            )
        if self.beta_schedule not in BETA_SCHEDULES:
            raise ValueError(
                f"beta_schedule={self.beta_schedule!r} is none of {', '.join(BETA_SCHEDULES)}."
            )
        _check_range(self)
        if self.given is not None:
            object.__setattr__(self, "given", tuple(map(float, self.given)))
            demand("(0, 1)", given=self.given)
            if len(self.given) != self.num_timesteps:
                raise ValueError(
                    f"given has {len(self.given)} betas for num_timesteps={self.num_timesteps}; "
                    "give one for each timestep."
                )
        if self.zero_terminal_snr and not self.table[-2] < self.terminal_sigma:
            raise ValueError(
                f"terminal_sigma={self.terminal_sigma} must be above the sigma of the timestep "
                f"before the last, {self.table[-2]:.4g}."
            )

    @property
    def betas(self) -> Float[np.ndarray, "T"]:
        if self.given is not None:
            return np.array(self.given, np.float64)
        make = BETA_SCHEDULES[self.beta_schedule]
        return make(self.num_timesteps, self.beta_start, self.beta_end)


def _check_range(chain: VPLinear | VPChain) -> None:
    demand("[2, inf)", num_timesteps=chain.num_timesteps)
    demand("(0, 1)", beta_start=chain.beta_start, beta_end=chain.beta_end)
    if chain.beta_start > chain.beta_end:
        raise ValueError(
            f"beta_start={chain.beta_start} must not be above beta_end={chain.beta_end}."
        )
