"""An .npy or .npz file of pictures: uint8 (N, H, W) or (N, H, W, C).

In an .npz the pictures are the array "images", "arr_0", "image", "x_train" or "data", the first of
these that is there. So samples.npz, as `sample.py` writes it, is a source too.
"""

import hashlib
import zipfile
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from diffusion.data.sources.labels import Labels, classes_of

IMAGES = ("images", "arr_0", "image", "x_train", "data")

DAMAGED = (zipfile.BadZipFile, zlib.error, ValueError, EOFError)
"""What NumPy raises for files that it cannot read."""


@dataclass(frozen=True, eq=False)
class ArrayFile:
    """Pictures by their row.

    `labels` takes the name of an array of the .npz, or for an .npy the path of another .npy.

    Attributes:
      path: the file.
      pixels: the pictures.
      fingerprint: a checksum of the file's name, size and time of change.
    """

    path: Path
    pixels: UInt8[np.ndarray, "N H W C"]
    fingerprint: str

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{self.path.name}[{index}]" for index in range(len(self.pixels)))

    def read(self, index: int) -> UInt8[np.ndarray, "H W C"]:
        return self.pixels[index]

    def labels(self, field: str) -> Labels:
        try:
            values = self._array(field)
        except DAMAGED as error:
            raise ValueError(f"labels={field} cannot be read: {error}.") from None
        if values.ndim == 2 and values.shape[1] == 1:  # as CIFAR's labels often are
            values = values[:, 0]
        if values.shape != (len(self.pixels),) or values.dtype.kind not in "iuUS":
            raise ValueError(
                f"labels={field} are {values.dtype} {values.shape}; they must be whole numbers or "
                f"words, one for each of {len(self.pixels)} pictures."
            )
        if values.dtype.kind == "S":  # bytes, in UTF-8 as far as they are text
            values = np.char.decode(values, "utf-8", "replace")
        return classes_of(values.tolist(), f"labels={field}")

    def _array(self, field: str) -> np.ndarray:
        if self.path.suffix.lower() == ".npy":
            return np.load(self.path.parent / field, allow_pickle=False)
        with np.load(self.path, allow_pickle=False) as arrays:
            if field not in arrays:
                raise ValueError(f"{self.path} has no such array, but {', '.join(arrays.files)}")
            return arrays[field]


def open_array_file(path: Path) -> ArrayFile:
    """Reads the file; an .npy is read where it lies.

    Raises:
      OSError: it cannot be opened.
      ValueError: it is damaged, or holds no pictures.
    """
    try:
        if path.suffix.lower() == ".npy":
            pixels = np.load(path, mmap_mode="r", allow_pickle=False)
        else:
            with np.load(path, allow_pickle=False) as arrays:
                name = next((name for name in IMAGES if name in arrays.files), None)
                if name is None:
                    raise ValueError(
                        f"it has {', '.join(arrays.files)}, but none of {', '.join(IMAGES)}"
                    )
                pixels = arrays[name]
    except DAMAGED as error:
        raise ValueError(f"{path} cannot be read as arrays: {error}.") from None
    if pixels.dtype != np.uint8 or pixels.ndim not in (3, 4) or 0 in pixels.shape[1:]:
        raise ValueError(
            f"{path} holds {pixels.dtype} {pixels.shape}; pictures must be uint8 (N, H, W) or "
            "(N, H, W, C)."
        )
    pixels = pixels[..., None] if pixels.ndim == 3 else pixels
    if pixels.shape[-1] not in (1, 3, 4):
        raise ValueError(
            f"{path} has {pixels.shape[-1]} channels on its last axis; pictures have 1, 3 or 4."
        )
    status = path.stat()
    described = f"{path.name} {status.st_size} {status.st_mtime_ns}"
    return ArrayFile(path, pixels, hashlib.sha256(described.encode()).hexdigest())
