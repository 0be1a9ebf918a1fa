"""Brings pictures of any size and mode to one shape: the largest middle part, resized by area.

A pixel of the result is the mean of the part of the picture that it covers, where a pixel that is
covered by a third counts a third; Pillow's filters take or leave whole pixels. Where the picture is
smaller than the result, it is enlarged by Pillow's bicubic.
"""

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, UInt8

from diffusion.data import images
from diffusion.optional import from_extra

with from_extra("train"):
    from PIL import Image


@dataclass(frozen=True)
class Fit:
    """Reads a picture as pixels (H, W, C).

    Attributes:
      height, width: size of the result, >= 1.
      channels: 1 for grey, 3 for RGB, 4 for RGBA.
      background: grey value 0 .. 255 over which what is transparent is laid; RGBA keeps it.
    """

    height: int
    width: int
    channels: int
    background: int = 255

    def __call__(self, content: bytes | np.ndarray, name: str) -> UInt8[np.ndarray, "H W C"]:
        """The fitted pixels.

        Args:
          content: an image file, or pixels uint8 (H, W) or (H, W, 1, 3 or 4).
          name: what errors call it.
        Raises:
          ValueError: it cannot be read as an image.
        """
        if isinstance(content, np.ndarray):
            image = images.from_array(content)
        else:
            image = images.open_image(content, name)
        pixels = images.flatten(image, name, self.channels, self.background)
        return self._resized(pixels)

    def _resized(self, pixels: UInt8[np.ndarray, "..."]) -> UInt8[np.ndarray, "H W C"]:
        height, width, channels = pixels.shape
        scale = min(height / self.height, width / self.width)  # pixels of the picture for one
        top, left = (height - scale * self.height) / 2, (width - scale * self.width) / 2
        if scale == 1:
            y, x = int(top), int(left)
            return pixels[y : y + self.height, x : x + self.width]
        if scale < 1:
            image = Image.fromarray(pixels[..., 0] if channels == 1 else pixels)
            box = (left, top, width - left, height - top)
            large = image.resize((self.width, self.height), Image.Resampling.BICUBIC, box=box)
            return np.asarray(large).reshape(self.height, self.width, channels)
        pixels = pixels[:, int(left) : math.ceil(width - left)]  # the rest is not read
        left -= int(left)
        rows = top + scale * np.arange(self.height + 1)
        columns = left + scale * np.arange(self.width + 1)
        if channels == 4:  # what is transparent has no colour
            weighted = pixels[..., :3] * pixels[..., 3:].astype(np.uint16)
            pixels = np.concatenate([weighted, pixels[..., 3:]], axis=-1)
        means = _means(_means(pixels, rows).swapaxes(0, 1), columns).swapaxes(0, 1)
        if channels == 4:
            means[..., :3] /= np.maximum(means[..., 3:], 1e-9)  # where alpha is 0, so is the colour
        return np.round(means).astype(np.uint8)


def _means(values: np.ndarray, edges: Float[np.ndarray, "n"]) -> Float[np.ndarray, "..."]:
    """The means of an array along its first axis, between edges that are more than 1 apart."""
    edges = np.clip(edges, 0, len(values))
    whole = np.minimum(edges.astype(int), len(values) - 1)
    trailing = (...,) + (None,) * (values.ndim - 1)
    begun = (edges - whole)[trailing] * values[whole]  # the part of its value before each edge
    sums = np.add.reduceat(values[: whole[-1]], whole[:-1], axis=0, dtype=_type_of_sums(values))
    return (sums + np.diff(begun, axis=0)) / np.diff(edges)[trailing]


def _type_of_sums(values: np.ndarray) -> np.dtype:
    if values.dtype.kind == "f":
        return values.dtype
    return np.min_scalar_type(np.iinfo(values.dtype).max * len(values))
