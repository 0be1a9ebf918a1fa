"""Latents of an autoencoder in place of images: a network that is trained on them never knows."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jaxtyping import Float, Int, UInt8

from diffusion.data import checksum
from diffusion.data.dataset import Dataset, InMemory, Spec

Encode = Callable[[UInt8[np.ndarray, "N H W C"]], Float[np.ndarray, "N h w D"]]


@dataclass(frozen=True)
class Latents:
    """The autoencoder whose latents a network is trained on, and their shape.

    Attributes:
      autoencoder: folder of a run that trained one, or of diffusers. The new run keeps a copy.
      downsample_factor: pixels along each axis of the image for one of the latent.
      channels: channels of the latent.
    Raises:
      ValueError: a value is below 1, or there is no folder.
    """

    autoencoder: str
    downsample_factor: int = 8
    channels: int = 4

    def __post_init__(self):
        if not self.autoencoder:
            raise ValueError("autoencoder is empty; give the folder of a trained one.")
        if self.downsample_factor < 1:
            raise ValueError(f"downsample_factor={self.downsample_factor} must be 1 or more.")
        if self.channels < 1:
            raise ValueError(f"channels={self.channels} must be 1 or more.")

    def spec(self, spec: Spec) -> Spec:
        """The spec of examples whose images are replaced by latents.

        Raises:
          ValueError: the images' size is not divisible by downsample_factor.
        """
        *size, _ = spec["image"].shape
        if any(side % self.downsample_factor for side in size):
            raise ValueError(
                f"images of {' x '.join(map(str, size))} are not divisible by "
                f"latents.downsample_factor={self.downsample_factor}; use another image size."
            )
        sides = (side // self.downsample_factor for side in size)
        latent = jax.ShapeDtypeStruct((*sides, self.channels), np.float32)
        return spec | dict.fromkeys(image_names(spec), latent)


def image_names(arrays: Mapping[str, Any]) -> frozenset[str]:
    """The names of what has the shape of "image": the images, and those they are made from."""
    return frozenset(name for name, one in arrays.items() if one.shape == arrays["image"].shape)


@dataclass(frozen=True, eq=False)
class EncodedImages:
    """A dataset whose images are encoded once, when it is made.

    Attributes:
      arrays: the values of all examples by name; latents in place of images.
      indices: `indices(seed, step) -> (B,)`, the examples of batch `step`.
      images: the dataset of the images.
      fingerprint: 32 bits that change with the autoencoder.
    """

    arrays: dict[str, np.ndarray]
    indices: Callable[[int, int], Int[np.ndarray, "B"]]
    images: Dataset
    fingerprint: int

    @property
    def batch_size(self) -> int:
        return self.images.batch_size

    @property
    def spec(self) -> Spec:
        return {
            name: jax.ShapeDtypeStruct(values.shape[1:], values.dtype)
            for name, values in self.arrays.items()
        }

    @property
    def texts(self) -> Any:
        return getattr(self.images, "texts", None)  # few datasets have texts

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, seed: int, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        chosen = self.indices(seed, step)[rows]
        return {name: values[chosen] for name, values in self.arrays.items()}

    def resident(self) -> InMemory:
        """All arrays, and the indices of each batch."""
        return InMemory(self.arrays, self.indices)

    def checksum(self) -> int:
        """CRC-32 of the images' checksum and the autoencoder; latents differ between devices."""
        return checksum.of_examples(
            self.images.checksum(), {"autoencoder": np.array([self.fingerprint], np.uint32)}
        )


def encoded(images: Dataset, encode: Encode, fingerprint: int) -> EncodedImages:
    """Encodes a dataset that lies in memory.

    Args:
      encode: from pixels to scaled latents.
      fingerprint: 32 bits that change with the autoencoder.
    Raises:
      ValueError: the dataset does not lie in memory.
    """
    resident = images.resident()
    if resident is None:
        raise ValueError(
            "latents are encoded once, and need a dataset that lies in memory; this one does not."
        )
    latents = {name: encode(resident.arrays[name]) for name in image_names(images.spec)}
    return EncodedImages(resident.arrays | latents, resident.indices, images, fingerprint)
