"""How the noise level is spread over features: sines and cosines of it, at many frequencies."""

from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from unet_flax.rules import Rule, flag, or_none, real, settle, whole


class Constant(nnx.Variable):
    """Saved with the weights, never trained: its gradient is zero (mind weight decay)."""


def sinusoidal(
    c_noise: Float[Array, "B"],
    channels: int,
    *,
    cos_first: bool = False,
    shift: float = 1.0,
    max_period: float = 10_000.0,
) -> Float[Array, "B channels"]:
    """Sines and cosines of the noise level, at frequencies falling geometrically from 1.

    embedding = sin(c_noise * f) || cos(c_noise * f),  f_i = max_period ** (-i / (half - shift))

    Args:
      c_noise: the noise level as the preconditioning states it, such as DDPM's timestep 0..999.
      channels: width of the embedding, 2 * half of them sinusoids; an odd width ends in one zero.
      cos_first: whether the cosines stand before the sines, as in OpenAI's networks.
      shift: 1 puts the last frequency at exactly 1 / max_period (DDPM), 0 one step above (OpenAI);
        at most half - 1.
      max_period: the lowest frequency is about 1 / max_period; above 1.
    Raises:
      ValueError: shift is above half - 1, where the exponents would divide by zero or change sign.
    Source: Ho et al. 2020, arXiv:2006.11239, appendix B (Vaswani et al. 2017, section 3.5, with
      sines and cosines side by side).
    """
    half = channels // 2
    shift = shift_below(half)("shift", shift)
    exponents = np.arange(half, dtype=np.float64) / (half - shift)
    frequencies = (max_period**-exponents).astype(np.float32)
    angles = c_noise.astype(jnp.float32)[:, None] * frequencies[None, :]
    sides = [jnp.sin(angles), jnp.cos(angles)]
    embedding = jnp.concatenate(sides[::-1] if cos_first else sides, axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, channels % 2)))


def shift_below(half: int) -> Rule:
    """What `sinusoidal` takes for its shift where there are `half` frequencies."""
    rule = real(most=half - 1)
    return replace(rule, allowed=f"{rule.allowed}, for channels // 2 = {half} frequencies")


@dataclass(frozen=True)
class Sinusoidal:
    """Noise features by `sinusoidal`.

    Attributes:
      cos_first, shift, max_period: see `sinusoidal`.
      channels: their number, 2 or more, or None for the width of the network's first level.
    Raises:
      ValueError: a value outside its range.
    """

    cos_first: bool = False
    shift: float = 1.0
    max_period: float = 10_000.0
    channels: int | None = None

    def __post_init__(self):
        settle(self, cos_first=flag, shift=real(), max_period=real(above=1))
        settle(self, channels=or_none(whole(least=2)))
        if self.channels is not None:
            settle(self, shift=shift_below(self.channels // 2))

    def of_width(self, channels: int) -> "Sinusoidal":
        """These, `channels` wide unless they say themselves."""
        return replace(self, channels=self.channels or channels)

    def make(self, channels: int, **rngs_and_types: Any) -> "Sinusoidal":
        """The features as a function of c_noise, `channels` wide unless they say themselves."""
        return self.of_width(channels)

    def __call__(self, c_noise: Float[Array, "B"]) -> Float[Array, "B F"]:
        assert self.channels is not None
        return sinusoidal(
            c_noise,
            self.channels,
            cos_first=self.cos_first,
            shift=self.shift,
            max_period=self.max_period,
        )


EVEN = Rule("an even number, 2 or more", lambda v: whole(2).fits(v) and v % 2 == 0, int)


@dataclass(frozen=True)
class Fourier:
    """Noise features at random frequencies: sin(2 pi w c_noise) || cos(2 pi w c_noise).

    The frequencies w ~ N(0, scale^2) are drawn with the weights, saved with them, never trained.

    Attributes:
      scale: standard deviation of the frequencies, in cycles per unit of c_noise; > 0.
      cos_first: whether the cosines stand before the sines.
      channels: number of features, even, or None for the width of the network's first level.
    Raises:
      ValueError: a value outside its range.
    Source: Tancik et al. 2020, arXiv:2006.10739; for noise levels Song et al. 2021,
      arXiv:2011.13456, appendix H.
    """

    scale: float = 16.0
    cos_first: bool = False
    channels: int | None = None

    def __post_init__(self):
        settle(self, scale=real(above=0), cos_first=flag, channels=or_none(EVEN))

    def of_width(self, channels: int) -> "Fourier":
        """These, `channels` wide unless they say themselves."""
        return replace(self, channels=self.channels or channels)

    def make(self, channels: int, *, rngs: nnx.Rngs, **types: Any) -> "FourierFeatures":
        """The features as a module, `channels` wide unless they say themselves."""
        return FourierFeatures(self.of_width(channels), rngs=rngs)


class FourierFeatures(nnx.Module):
    """See `Fourier`."""

    def __init__(self, settings: Fourier, *, rngs: nnx.Rngs):
        assert settings.channels is not None
        self.settings = settings
        self.channels = settings.channels
        self.frequencies = Constant(
            settings.scale
            * jax.random.normal(rngs.params(), (settings.channels // 2,), jnp.float32)
        )

    def __call__(self, c_noise: Float[Array, "B"]) -> Float[Array, "B F"]:
        frequencies = jax.lax.stop_gradient(self.frequencies[...].astype(jnp.float32))
        angles = 2 * jnp.pi * c_noise.astype(jnp.float32)[:, None] * frequencies[None, :]
        sides = [jnp.cos(angles), jnp.sin(angles)]
        return jnp.concatenate(sides if self.settings.cos_first else sides[::-1], axis=-1)


NoiseFeatures = Sinusoidal | Fourier
