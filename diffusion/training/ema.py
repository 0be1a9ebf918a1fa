"""Averages of the weights over training, which give better samples than the latest weights.

`ema.init(params)` starts the averages, and `ema.update(average, params, step, batch_size)` updates
them. `ema.choose(average, name)` returns the average of a name in `ema.names`. `ema.sigma_rel_of`
holds the widths of power-function averages by name; `reconstruct` makes other widths from those.
Averages are float32 also of narrower weights: a small part of a new weight would be rounded away.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from diffusion.ranges import demand
from diffusion.training.precision import wide


@dataclass(frozen=True)
class EMA:
    """Exponential moving average with warm-up.

    average = decay_n * average + (1 - decay_n) * params,  decay_n = min(decay, (1 + n) / (10 + n))

    Without the warm-up, an average with decay 0.9999 would contain the random initial weights for
    tens of thousands of steps.

    Attributes:
      decay: in [0, 1); 0.9999 averages over about the last 10,000 steps.
    Source: Ho et al. 2020, arXiv:2006.11239, appendix B (decay 0.9999); the warm-up is that of
      TensorFlow's ExponentialMovingAverage(num_updates).
    """

    decay: float = 0.9999

    def __post_init__(self):
        demand("[0, 1)", decay=self.decay)

    @property
    def names(self) -> tuple[str, ...]:
        return (f"{self.decay:g}",)

    @property
    def sigma_rel_of(self) -> dict[str, float]:
        return {}  # not a power-function average

    def init(self, params: Any) -> Any:
        return _copy(params)

    def update(self, average: Any, params: Any, step: Int[Array, ""], batch_size: int) -> Any:
        """Adds the weights after optimiser step number `step` (from 0) to the average."""
        return _mix(average, params, jnp.maximum(1 - self.decay, 9 / (jnp.float32(10) + step)))

    def choose(self, average: Any, name: str) -> Any:
        """The average with this name."""
        return average


@dataclass(frozen=True)
class HalfLife:
    """Exponential moving average whose half-life is counted in images, and grows with training.

    decay = 0.5 ** (batch_size / min(half_life_images, ramp * images seen))

    Attributes:
      half_life_images: after this many images the contribution of a weight is halved; > 0.
      ramp: the half-life is at most this fraction of the images seen; > 0.
    Source: Karras et al. 2022, arXiv:2206.00364, appendix F.2 (0.5 M images, ramp 0.05).
    """

    half_life_images: int = 500_000
    ramp: float = 0.05

    def __post_init__(self):
        demand("(0, inf)", half_life_images=self.half_life_images, ramp=self.ramp)

    @property
    def names(self) -> tuple[str, ...]:
        return (str(self.half_life_images),)

    @property
    def sigma_rel_of(self) -> dict[str, float]:
        return {}  # not a power-function average

    def init(self, params: Any) -> Any:
        return _copy(params)

    def update(self, average: Any, params: Any, step: Int[Array, ""], batch_size: int) -> Any:
        """Adds the weights after optimiser step number `step` (from 0) to the average."""
        steps = jnp.minimum(self.half_life_images / batch_size, self.ramp * (step + jnp.float32(1)))
        return _mix(average, params, -jnp.expm1(-np.log(2).item() / steps))

    def choose(self, average: Any, name: str) -> Any:
        """The average with this name."""
        return average


@dataclass(frozen=True)
class PowerFunction:
    """Averages whose width is a fixed fraction of training; `reconstruct` makes other widths.

    average_t is proportional to the sum over s <= t of s^gamma params_s, by the update
    average_t = decay average_(t - 1) + (1 - decay) params_t,  decay = (1 - 1 / t)^(gamma + 1)

    Attributes:
      sigma_rels: standard deviation of each average's profile, as a fraction of training, in
        (0, 0.28); the averages are named by these numbers.
    Source: Karras et al. 2023, arXiv:2312.02696, section 3.1 and appendix C (0.05 and 0.10).
    """

    sigma_rels: tuple[float, ...] = (0.05, 0.1)

    def __post_init__(self):
        if isinstance(self.sigma_rels, list):
            object.__setattr__(self, "sigma_rels", tuple(self.sigma_rels))  # lists are not hashable
        if not self.sigma_rels or len(set(self.names)) < len(self.sigma_rels):
            raise ValueError(
                f"sigma_rels={self.sigma_rels} must be one or more numbers, all different."
            )
        for sigma_rel in self.sigma_rels:
            power(sigma_rel)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{sigma_rel:g}" for sigma_rel in self.sigma_rels)

    @property
    def sigma_rel_of(self) -> dict[str, float]:
        return dict(zip(self.names, self.sigma_rels, strict=True))

    def init(self, params: Any) -> Any:
        return {name: _copy(params) for name in self.names}

    def update(self, average: Any, params: Any, step: Int[Array, ""], batch_size: int) -> Any:
        """Adds the weights after optimiser step number `step` (from 0) to the averages."""
        log = jnp.log1p(-1 / (step + jnp.float32(1)))  # -inf at the first step: no memory
        return {
            name: _mix(average[name], params, -jnp.expm1((power(sigma_rel) + 1) * log))
            for name, sigma_rel in self.sigma_rel_of.items()
        }

    def choose(self, average: Any, name: str) -> Any:
        """The average with this name."""
        return average[name]


Averages = EMA | HalfLife | PowerFunction


@dataclass(frozen=True)
class Several:
    """Averages of several kinds at once.

    Attributes:
      averages: one or more, all with different names.
    """

    averages: tuple[Averages, ...]

    def __post_init__(self):
        object.__setattr__(self, "averages", tuple(self.averages))
        if not self.averages or len(set(self.names)) < len(self.names):
            raise ValueError(
                f"averages with names {self.names}: use one or more, all with different names."
            )

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(name for part in self.averages for name in part.names)

    @property
    def sigma_rel_of(self) -> dict[str, float]:
        return {name: s for part in self.averages for name, s in part.sigma_rel_of.items()}

    def init(self, params: Any) -> Any:
        return {"+".join(part.names): part.init(params) for part in self.averages}

    def update(self, average: Any, params: Any, step: Int[Array, ""], batch_size: int) -> Any:
        """Adds the weights after optimiser step number `step` (from 0) to the averages."""
        keys = ["+".join(part.names) for part in self.averages]
        return {
            key: part.update(average[key], params, step, batch_size)
            for key, part in zip(keys, self.averages, strict=True)
        }

    def choose(self, average: Any, name: str) -> Any:
        """The average with this name."""
        part = next(part for part in self.averages if name in part.names)
        return part.choose(average["+".join(part.names)], name)


Average = Averages | Several


def _copy(params: Any) -> Any:
    # the step donates params, so the average needs a copy
    return jax.tree.map(lambda leaf: jnp.array(leaf, wide(leaf.dtype), copy=True), params)


def _mix(average: Any, params: Any, rate: Float[Array, ""]) -> Any:
    """average + rate (params - average), where rate = 1 - decay.

    The rate itself is the argument: 1 - decay in float32 would lose the digits of a decay near 1.
    """

    def mixed(a: Array, p: Array) -> Array:
        a = a.astype(wide(a.dtype))
        return a + rate.astype(a.dtype) * (p.astype(a.dtype) - a)

    return jax.tree.map(mixed, average, params)


def power(sigma_rel: float) -> float:
    """gamma of the profile s^gamma on [0, 1] with this standard deviation.

    sigma_rel^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3))

    Raises:
      ValueError: sigma_rel is not in (0, 0.289); gamma = 0, the plain mean, has 0.289.
    """
    if not 0 < sigma_rel < 12**-0.5:
        raise ValueError(f"sigma_rel={sigma_rel} is outside (0, {12**-0.5:.3f}).")
    inverse = sigma_rel**-2
    roots = np.roots([1.0, 7.0, 16 - inverse, 12 - inverse])
    return float(roots.real.max())


def reconstruct(
    snapshots: Sequence[tuple[int, float]], step: int, sigma_rel: float
) -> Float[np.ndarray, "S"]:
    """Coefficients that combine stored power-function averages into one of another width.

    The profile of the combination is the least-squares approximation of the wanted profile.

    Args:
      snapshots: (step, sigma_rel) of each stored average.
      step: step of the wanted average; must be that of a snapshot, usually the last.
      sigma_rel: width of the wanted average.
    Returns:
      A coefficient for each snapshot; they sum to one.
    Source: Karras et al. 2023, arXiv:2312.02696, Algorithm 3. Deviation: the coefficients are
      constrained to sum to one.
    """
    t = np.array([float(at) for at, _ in snapshots])
    gamma = np.array([power(sigma) for _, sigma in snapshots])
    overlaps = _overlap(t[:, None], gamma[:, None], t[None], gamma[None])
    wanted = _overlap(t, gamma, np.full_like(t, step), np.full_like(t, power(sigma_rel)))
    # a Lagrange multiplier constrains the coefficients to sum to one
    ones = np.ones((len(t), 1))
    system = np.block([[overlaps, ones], [ones.T, np.zeros((1, 1))]])
    solution, *_ = np.linalg.lstsq(system, np.append(wanted, 1.0), rcond=1e-13)
    return solution[:-1]


def _overlap(t_a: np.ndarray, a: np.ndarray, t_b: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Integral of the product of two profiles, (a + 1) s^a / t_a^(a + 1) and the same of b."""
    both = np.log(np.minimum(t_a, t_b)) * (a + b + 1)
    factor = (a + 1) * (b + 1) / (a + b + 1)
    return factor * np.exp(both - np.log(t_a) * (a + 1) - np.log(t_b) * (b + 1))
