"""Pixels 0 .. 255 and images in [-1, 1]: the one place that turns either into the other."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

BIN = 2 / 255
"""Width of a pixel's bin in [-1, 1]."""


def from_pixels(pixels: UInt8[Any, "..."]) -> Float[Any, "..."]:
    """uint8 0 .. 255 to float32 [-1, 1], of numpy or jax arrays.

    Raises:
      ValueError: pixels of another type.
    """
    if pixels.dtype != np.uint8:
        raise ValueError(f"pixels of type {pixels.dtype} must be uint8, 0 .. 255.")
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def as_images(arrays: dict[str, Any]) -> dict[str, Any]:
    """Arrays as a network takes them: uint8 ones are pixels, and become images in [-1, 1]."""
    return {
        name: from_pixels(values) if values.dtype == np.uint8 else values
        for name, values in arrays.items()
    }


def to_pixels(image: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """[-1, 1] to uint8 0 .. 255, rounded; values outside are clipped.

    Raises:
      ValueError: an image of integers.
    """
    check_image("image", image)
    image = np.asarray(image, np.float32)
    return np.round((np.clip(image, -1, 1) + 1) * 127.5).astype(np.uint8)


def check_image(name: str, image: Any) -> None:
    """Raises a ValueError unless an image, or a batch of them, is of a type of float."""
    if not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(
            f"{name} of type {image.dtype} must be float, in [-1, 1]; uint8 pixels become that by "
            "diffusion.pixels.from_pixels."
        )


def log_bin(
    image: Float[Array, "..."], mean: Float[Array, "..."], std: Float[Array, "..."]
) -> Float[Array, "..."]:
    """ln of the normal probability of each pixel's bin; the bins of 0 and 255 have no outer end."""
    # mirrored so that both ends lie in the lower tail, where their difference loses no digits
    gap = jnp.abs(image - mean)
    is_open = jnp.abs(image) > 1 - BIN / 2
    outwards = jnp.sign(image) * (image - mean) > 0
    near = jax.scipy.special.log_ndtr((BIN / 2 - gap) / std)
    far = jax.scipy.special.log_ndtr((-BIN / 2 - gap) / std)
    closed = near + jnp.log1p(-jnp.exp(jnp.minimum(far - near, -1e-7)))
    inner = jnp.where(outwards, BIN / 2 - gap, BIN / 2 + gap)
    return jnp.where(is_open, jax.scipy.special.log_ndtr(inner / std), closed)
