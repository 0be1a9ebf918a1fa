"""From one level to the next: images of half the size, or of double.

A kind of resampling makes both directions, `kind.down(channels, res_block, **settings)` and
`kind.up(...)`; each gives a module `f(x, emb, dropout_key) -> x`, where only residual blocks look
at the embedding.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from unet_flax.blocks import conv, identity
from unet_flax.mesh import sharding_of
from unet_flax.rules import flag, one_of, settle, taps

BOX = (1.0, 1.0)
"""Taps of the plainest filter: the mean of two neighbours, and each pixel twice."""


@dataclass(frozen=True)
class Halve:
    """Halves every spatial axis: smooths by a filter and keeps every second value.

    Attributes:
      taps: of the filter, an even number, scaled to sum 1; BOX is the mean of 2 x 2 pixels.
    Source: Zhang 2019, arXiv:1904.11486; (1, 3, 3, 1) as in Song et al. 2021, arXiv:2011.13456,
      appendix H.
    """

    taps: tuple[float, ...] = BOX

    def __call__(self, x: Float[Array, "B *spatial C"]) -> Float[Array, "B *halved C"]:
        margin = len(self.taps) // 2 - 1
        for axis in range(1, x.ndim - 1):
            x = _halve_padded(_pad(x, axis, margin), axis, self.taps)
        return x


@dataclass(frozen=True)
class Double:
    """Doubles every spatial axis: puts zeros between the values and smooths by a filter.

    Attributes:
      taps: of the filter, an even number, scaled to sum 2; BOX repeats each pixel ("nearest").
    Source: as `Halve`.
    """

    taps: tuple[float, ...] = BOX

    def __call__(self, x: Float[Array, "B *spatial C"]) -> Float[Array, "B *doubled C"]:
        if self.taps == BOX:
            return _repeat(x)  # one copy, where the filter would make one an axis
        for axis in range(1, x.ndim - 1):
            x = _double(x, axis, self.taps)
        return x


def _pad(x: Array, axis: int, margin: int) -> Array:
    widths = [(0, 0)] * x.ndim
    widths[axis] = (margin, margin)
    return jnp.pad(x, widths)


def _halve_padded(x: Array, axis: int, taps: tuple[float, ...]) -> Array:
    size = (x.shape[axis] - len(taps)) // 2 + 1
    parts = [
        tap * jax.lax.slice_in_dim(x, k, k + 2 * size - 1, 2, axis) for k, tap in enumerate(taps)
    ]
    return sum(parts[1:], parts[0]) / sum(taps)


def _double(x: Array, axis: int, taps: tuple[float, ...]) -> Array:
    size, margin, reach = x.shape[axis], len(taps) // 4 + 1, len(taps) // 2
    padded = _pad(x, axis, margin)

    def interleaved(parity: int) -> Array:
        """Values at 2 i + parity: those taps that do not fall on a zero."""
        parts = []
        for k, tap in enumerate(taps):
            if (parity + k - reach) % 2 == 0:
                start = margin + (parity + k - reach) // 2
                parts.append(tap * jax.lax.slice_in_dim(padded, start, start + size, 1, axis))
        return sum(parts[1:], parts[0]) * (2 / sum(taps))

    pair = jnp.stack([interleaved(0), interleaved(1)], axis + 1)
    return pair.reshape(x.shape[:axis] + (2 * size,) + x.shape[axis + 1 :])


def _repeat(x: Array) -> Array:
    apart, wide, doubled = x.shape[:1], x.shape[:1], x.shape[:1]
    for size in x.shape[1:-1]:
        apart, wide, doubled = (*apart, size, 1), (*wide, size, 2), (*doubled, 2 * size)
    C = x.shape[-1:]
    repeated = jnp.broadcast_to(x.reshape(apart + C), wide + C)
    return jnp.reshape(repeated, doubled + C, out_sharding=sharding_of(x, x.ndim))


@dataclass(frozen=True)
class Interpolate:
    """Scales every spatial axis by a factor, by jax.image.resize; antialiased where it shrinks."""

    factor: float
    method: str

    def __call__(self, x: Float[Array, "B *spatial C"]) -> Float[Array, "B *scaled C"]:
        spatial = tuple(int(size * self.factor) for size in x.shape[1:-1])
        return jax.image.resize(x, (x.shape[0], *spatial, x.shape[-1]), self.method)


class Downsample(nnx.Module):
    """Halves every spatial axis by a 3x3 convolution of stride 2.

    Args:
      symmetric: whether one pixel is added on every side, as by PyTorch's `padding=1`. If not, one
        row is added below and one column to the right, as by TensorFlow's SAME on even sizes.
      settings: dims, dtype, param_dtype and rngs, see `conv`.
    Source: Ho et al. 2020, arXiv:2006.11239, appendix B.
    """

    def __init__(self, channels: int, *, symmetric: bool = False, **settings: Any):
        padding = 1 if symmetric else "SAME"
        self.conv = conv(channels, channels, strides=2, padding=padding, **settings)

    def __call__(
        self,
        x: Float[Array, "B *spatial C"],
        emb: Array | None = None,
        dropout_key: Array | None = None,
    ) -> Float[Array, "B *halved C"]:
        return self.conv(x)


class Upsample(nnx.Module):
    """Doubles every spatial axis by repeating each pixel, then smooths by a 3x3 convolution.

    Source: Ho et al. 2020, arXiv:2006.11239, appendix B.
    """

    def __init__(self, channels: int, **settings: Any):
        self.conv = conv(channels, channels, **settings)

    def __call__(
        self,
        x: Float[Array, "B *spatial C"],
        emb: Array | None = None,
        dropout_key: Array | None = None,
    ) -> Float[Array, "B *doubled C"]:
        return self.conv(_repeat(x))


class Resample(nnx.Module):
    """A resampling function, then an optional convolution."""

    def __init__(self, function: Callable[[Array], Array], conv: Callable = identity):
        self.function = function
        self.conv = conv

    def __call__(
        self,
        x: Float[Array, "B *spatial C"],
        emb: Array | None = None,
        dropout_key: Array | None = None,
    ) -> Float[Array, "B *resampled C"]:
        return self.conv(self.function(x))


class InputPyramid(nnx.Module):
    """A 3x3 convolution, then `Halve`: the image for the next level of NCSN++'s encoder.

    The convolution reaches as far beyond the border as the filter looks.

    Source: Song et al. 2021, arXiv:2011.13456, appendix H ("residual" progressive input), in the
      order of Karras et al. 2022.
    """

    def __init__(
        self, in_channels: int, out_channels: int, taps: tuple[float, ...], **settings: Any
    ):
        self.taps = taps
        self.conv = conv(in_channels, out_channels, padding=len(taps) // 2, **settings)

    def __call__(self, x: Float[Array, "B *spatial C"]) -> Float[Array, "B *halved out"]:
        x = self.conv(x)
        for axis in range(1, x.ndim - 1):
            x = _halve_padded(x, axis, self.taps)
        return x


@dataclass(frozen=True)
class Strided:
    """Down by a convolution of stride 2, up by repeating pixels and convolving, as in DDPM.

    Attributes:
      symmetric: where the padding of the strided convolution goes, see `Downsample`.
    """

    symmetric: bool = False

    def __post_init__(self):
        settle(self, symmetric=flag)

    def down(self, channels: int, res_block: Callable, **settings: Any) -> Downsample:
        return Downsample(channels, symmetric=self.symmetric, **settings)

    def up(self, channels: int, res_block: Callable, **settings: Any) -> Upsample:
        return Upsample(channels, **settings)


@dataclass(frozen=True)
class Pool:
    """Down by the mean of 2 x 2 pixels, up by repeating them; no weights."""

    def down(self, channels: int, res_block: Callable, **settings: Any) -> Resample:
        return Resample(Halve())

    def up(self, channels: int, res_block: Callable, **settings: Any) -> Resample:
        return Resample(Double())


@dataclass(frozen=True)
class Resize:
    """Down and up by interpolation, then a 3x3 convolution.

    Attributes:
      method: "bilinear", "nearest", "cubic", "lanczos3" or "lanczos5", of jax.image.resize.
    """

    method: str = "bilinear"

    def __post_init__(self):
        settle(self, method=one_of("bilinear", "nearest", "cubic", "lanczos3", "lanczos5"))

    def down(self, channels: int, res_block: Callable, **settings: Any) -> Resample:
        shrink = Interpolate(0.5, self.method)
        return Resample(shrink, conv(channels, channels, **settings))

    def up(self, channels: int, res_block: Callable, **settings: Any) -> Resample:
        grow = Interpolate(2.0, self.method)
        return Resample(grow, conv(channels, channels, **settings))


@dataclass(frozen=True)
class Residual:
    """Down and up inside a residual block of its own, as in BigGAN, ADM, DDPM++ and NCSN++.

    Attributes:
      taps: of the filter; BOX takes means and repeats, (1, 3, 3, 1) is NCSN++'s.
      projects_skip: whether the block's skip path has a 1x1 convolution (DDPM++, NCSN++) or none
        (ADM).
    Source: Brock et al. 2018, arXiv:1809.11096, appendix B.
    """

    taps: tuple[float, ...] = BOX
    projects_skip: bool = False

    def __post_init__(self):
        settle(self, taps=taps, projects_skip=flag)

    def down(self, channels: int, res_block: Callable, **settings: Any) -> nnx.Module:
        halve = Halve(self.taps)
        return res_block(channels, channels, resample=halve, projects_skip=self.projects_skip)

    def up(self, channels: int, res_block: Callable, **settings: Any) -> nnx.Module:
        double = Double(self.taps)
        return res_block(channels, channels, resample=double, projects_skip=self.projects_skip)


Resampling = Strided | Pool | Resize | Residual
