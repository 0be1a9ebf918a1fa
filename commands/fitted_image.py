"""An image file at the size of a network's images, for the commands."""

import sys
from pathlib import Path

import numpy as np
from jaxtyping import Bool, UInt8

from diffusion.data import images
from diffusion.data.fit import Fit


def read_fitted(path: Path, shape: tuple[int, ...]) -> UInt8[np.ndarray, "H W C"]:
    """Reads an image; one of another size is cropped to its middle and resized, with a message.

    Args:
      shape: (height, width, channels) of the network's images.
    Raises:
      OSError: there is no such file.
      ValueError: the file is no image, or the network's images are no pictures.
    """
    height, width, channels = shape
    pixels = images.read_pixels(path, channels)
    if pixels.shape[:2] == (height, width):
        return pixels
    print(
        f"{path}: {pixels.shape[1]} x {pixels.shape[0]} pixels (width x height), cropped to the "
        f"middle and resized to {width} x {height}, which the network draws.",
        file=sys.stderr,
    )
    return Fit(height, width, channels)(pixels, str(path))


def read_fitted_mask(path: Path, image: Path, shape: tuple[int, ...]) -> Bool[np.ndarray, "H W"]:
    """Reads a mask, True where it is white, and fits it as `read_fitted` fits its image.

    Raises:
      OSError: there is no such file.
      ValueError: the file is no mask, or has another size than its image.
    """
    height, width, channels = shape
    mask, size = images.read_mask(path), images.read_pixels(image, channels).shape[:2]
    if mask.shape != size:
        raise ValueError(
            f"{path} is {mask.shape[1]} x {mask.shape[0]} pixels (width x height), but {image} is "
            f"{size[1]} x {size[0]}; a mask has the size of its image."
        )
    if mask.shape == (height, width):
        return mask
    white = np.uint8(255) * mask.astype(np.uint8)[..., None]
    return Fit(height, width, 1)(white, str(path))[..., 0] > 0
