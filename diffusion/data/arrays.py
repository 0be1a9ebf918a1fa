"""A dataset in memory. Batch k is a function of (seed, k) alone."""

from dataclasses import dataclass, field

import jax
import numpy as np
from jaxtyping import Int, Integer, UInt8

from diffusion.data import checksum, order
from diffusion.data.dataset import InMemory, Spec, image_spec
from diffusion.data.order import Mixture
from diffusion.data.text.texts import Texts
from diffusion.pixels import as_images


@dataclass(frozen=True, eq=False)
class ImageArrays:
    """Images in memory, with labels and other conditions for the network.

    Attributes:
      pixels: images.
      labels: class of each image, or None.
      label_names: name of each class; empty if the classes have no names.
      batch_size: images in a batch, over all devices, >= 1.
      conditions: further inputs of the network by keyword, as arrays of N rows; uint8 ones are
        pixels, which the network gets as images in [-1, 1].
      texts: the texts that `conditions` were read from, if there are any.
      mixture: groups of images that every batch has fixed shares of; None for no groups.
      pixels_checksum: `checksum.of_array(pixels)` where it is known; None computes it when asked.
    Raises:
      ValueError: batch_size is below 1, pixels are not uint8, an array has not N rows, or a
        condition is named "image" or "label".
    """

    pixels: UInt8[np.ndarray, "N H W C"]
    labels: Integer[np.ndarray, "N"] | None
    label_names: tuple[str, ...]
    batch_size: int
    conditions: dict[str, np.ndarray] = field(default_factory=dict)
    texts: Texts | None = None
    mixture: Mixture | None = None
    pixels_checksum: int | None = None

    def __post_init__(self):
        if self.batch_size < 1:
            raise ValueError(f"batch_size={self.batch_size} must be 1 or more.")
        if self.pixels.dtype != np.uint8:
            raise ValueError(f"pixels of type {self.pixels.dtype} must be uint8, 0 .. 255.")
        if self.pixels.ndim != 4:
            raise ValueError(f"pixels of shape {self.pixels.shape} must be (N, H, W, C).")
        if self.labels is not None and not np.issubdtype(self.labels.dtype, np.integer):
            raise ValueError(f"labels of type {self.labels.dtype} are no classes; use integers.")
        names, labels = self.label_names, self.labels
        if labels is not None and names and not 0 <= labels.min() <= labels.max() < len(names):
            raise ValueError(
                f"labels from {labels.min()} to {labels.max()} do not fit {len(names)} classes; "
                f"they must be 0 .. {len(names) - 1}."
            )
        for name, values in self._arrays.items():
            if len(values) != len(self.pixels):
                raise ValueError(f"{name} has {len(values)} rows for {len(self.pixels)} images.")
        if taken := self.conditions.keys() & {"image", "label"}:
            raise ValueError(
                f"conditions={sorted(taken)} are reserved for pixels and labels; rename them."
            )

    @property
    def _arrays(self) -> dict[str, np.ndarray]:
        labels = {} if self.labels is None else {"label": self.labels.astype(np.int32, copy=False)}
        return {"image": self.pixels, **labels, **self.conditions}

    @property
    def spec(self) -> Spec:
        spec = image_spec(self.pixels.shape[1:], labelled=self.labels is not None)
        return spec | {
            name: jax.ShapeDtypeStruct(
                values.shape[1:], np.float32 if values.dtype == np.uint8 else values.dtype
            )
            for name, values in self.conditions.items()
        }

    def __len__(self) -> int:
        return len(self.pixels)

    def indices(self, seed: int, step: int) -> Int[np.ndarray, "B"]:
        """Indices of the images of batch `step`."""
        if self.mixture is not None:
            return self.mixture.indices(seed, step, self.batch_size)
        return order.indices(seed, step, self.batch_size, len(self.pixels))

    def batch(self, seed: int, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """{"image": float32 (B, H, W, C) in [-1, 1], "label": int32 (B,), ...}.

        Args:
          rows: the rows of the batch to return; all by default.
        """
        chosen = self.indices(seed, step)[rows]
        return self.rows(chosen)

    def first(self, count: int) -> Int[np.ndarray, "N"]:
        """Some examples in the order of seed 0, the same whatever the size of a batch."""
        if self.mixture is not None:
            return self.mixture.indices(0, 0, count)
        return order.indices(0, 0, count, len(self.pixels))

    def rows(self, index: Int[np.ndarray, "B"]) -> dict[str, np.ndarray]:
        """The examples with these indices, as `batch` returns them."""
        return as_images({name: values[index] for name, values in self._arrays.items()})

    def checksum(self) -> int:
        """CRC-32 of all arrays."""
        pixels = self.pixels_checksum
        others = {name: values for name, values in self._arrays.items() if name != "image"}
        return checksum.of_examples(
            checksum.of_array(self.pixels) if pixels is None else pixels, others
        )

    def resident(self) -> InMemory:
        """All arrays, and the indices of each batch."""
        return InMemory(self._arrays, self.indices)
