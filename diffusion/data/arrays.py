"""A dataset in memory, and the law of its order: batch k is a function of (seed, k) alone."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int, UInt8

from diffusion.data.images import from_pixels


@lru_cache(maxsize=2)  # a batch spans two epochs at most
def _permutation(seed: int, epoch: int, num_images: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(num_images)


@dataclass(frozen=True, eq=False)
class ImageArrays:
    """Images and labels in memory.

    Attributes:
      pixels: uint8 images.
      labels: class of each image, or None.
      label_names: name of each class; empty where there are none.
      batch_size: images in a batch, over all devices.
    """

    pixels: UInt8[np.ndarray, "N H W C"]
    labels: Int[np.ndarray, "N"] | None
    label_names: tuple[str, ...]
    batch_size: int

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be 1 or more.")

    def indices(self, seed: int, step: int) -> Int[np.ndarray, "B"]:
        """Which images make up batch `step`: every epoch is a new permutation, cut in a row."""
        positions = step * self.batch_size + np.arange(self.batch_size)
        epochs, offsets = np.divmod(positions, len(self.pixels))
        order = {
            epoch: _permutation(seed, epoch, len(self.pixels))
            for epoch in np.unique(epochs).tolist()
        }
        if len(order) == 1:
            return order[int(epochs[0])][offsets]
        return np.array([order[e][o] for e, o in zip(epochs.tolist(), offsets, strict=True)])

    def batch(self, seed: int, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """{"image": float32 (B, H, W, C) in [-1, 1], "label": int32 (B,)}; no label if none.

        Args:
          rows: which of its rows are wanted; all by default.
        """
        chosen = self.indices(seed, step)[rows]
        batch = {"image": from_pixels(self.pixels[chosen])}
        if self.labels is not None:
            batch["label"] = self.labels[chosen].astype(np.int32)
        return batch
