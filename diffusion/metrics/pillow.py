"""Pillow's bicubic resampling of 8-bit images, bit for bit.

The papers resize by Pillow before a network sees the image, and the number depends on it: the
kernel (a = -1/2) is widened where the image shrinks, and each of the two passes, along the width
first, rounds to 8 bits. (Since version 13 Pillow begins with the height where that shrinks much
more than the width, which moves single values of such images; earlier versions, by which published
numbers were made, never do.)

Source: Pillow 12, src/libImaging/Resample.c (ImagingResample, 8 bits per channel).
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, UInt8

BITS = 22
"""Weights are integers in units of 2**-22: 8 bits of image and 2 of headroom fill 32."""


def resize(pixels: UInt8[Array, "B H W C"], size: int) -> UInt8[Array, "B size size C"]:
    """Images resized to a square; the ratio of the sides is not kept."""
    return _along(_along(pixels, axis=2, size=size), axis=1, size=size)


def middle_square(pixels: UInt8[Array, "B H W C"]) -> UInt8[Array, "B S S C"]:
    """The largest square in the middle of each image."""
    _, H, W, _ = pixels.shape
    side = min(H, W)
    top, left = (H - side) // 2, (W - side) // 2
    return pixels[:, top : top + side, left : left + side]


def _along(pixels: UInt8[Array, "..."], *, axis: int, size: int) -> UInt8[Array, "..."]:
    first, weights = taps(pixels.shape[axis], size)
    shape = [1] * pixels.ndim
    shape[axis] = size
    total = jnp.full((), 1 << (BITS - 1), jnp.int32)  # one half, so that the shift rounds
    for tap in range(weights.shape[1]):
        index = np.minimum(first + tap, pixels.shape[axis] - 1)
        values = jnp.take(pixels, index, axis=axis).astype(jnp.int32)
        total = total + values * jnp.asarray(weights[:, tap].reshape(shape))
    return jnp.clip(total >> BITS, 0, 255).astype(jnp.uint8)


def taps(length: int, size: int) -> tuple[Int[np.ndarray, "S"], Int[np.ndarray, "S T"]]:
    """The first pixel that each new pixel is made of, and the weights of it and the next ones."""
    scale = length / size
    widening = max(scale, 1.0)
    centre = (np.arange(size) + 0.5) * scale
    first = np.maximum((centre - 2 * widening + 0.5).astype(np.int32), 0)
    last = np.minimum((centre + 2 * widening + 0.5).astype(np.int32), length)
    place = first[:, None] + np.arange((last - first).max())
    weights = bicubic((place + 0.5 - centre[:, None]) / widening, a=-0.5)
    weights = np.where(place < last[:, None], weights, 0.0)
    weights = weights / weights.sum(1, keepdims=True) * (1 << BITS)
    return first, np.trunc(weights + np.copysign(0.5, weights)).astype(np.int32)


def bicubic(x: np.ndarray, *, a: float) -> np.ndarray:
    """Keys's cubic kernel, 0 beyond a distance of 2."""
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x**2 + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
