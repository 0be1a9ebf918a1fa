"""Pixels 0 .. 255 and images in [-1, 1]: the one place that turns either into the other."""

from typing import Any

import numpy as np
from jaxtyping import Float, UInt8


def from_pixels(pixels: UInt8[Any, "..."]) -> Float[Any, "..."]:
    """uint8 0 .. 255 to float32 [-1, 1], of numpy or jax arrays."""
    return pixels.astype(np.float32) / np.float32(127.5) - np.float32(1)


def to_pixels(image: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """[-1, 1] to uint8 0 .. 255, rounded; values outside are clipped."""
    image = np.asarray(image, np.float32)
    return np.round((np.clip(image, -1, 1) + 1) * 127.5).astype(np.uint8)
