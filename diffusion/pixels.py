"""Pixels 0 .. 255 and images in [-1, 1]: the one place that turns either into the other."""

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, UInt8


def from_pixels(pixels: UInt8[Any, "..."]) -> Float[Any, "..."]:
    """uint8 0 .. 255 to float32 [-1, 1], of numpy or jax arrays.

    Raises:
      ValueError: pixels of another type.
    """
    if pixels.dtype != np.uint8:
        raise ValueError(f"pixels of type {pixels.dtype} must be uint8, 0 .. 255.")
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


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
