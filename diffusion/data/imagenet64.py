"""ImageNet at 64x64: 1,281,167 training images in 1,000 classes, in ten npz files.

Registered users of image-net.org can download "Train(64x64) npz, part 1" and "part 2". They contain
train_data_batch_1.npz ... train_data_batch_10.npz, each with `data` uint8 (N, 12288), channels
first, and `labels` 1 .. 1000.

Source: Chrabaszcz, Loshchilov & Hutter 2017, arXiv:1707.08819.
"""

import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion.data.arrays import ImageArrays
from diffusion.data.dataset import Spec, image_spec

NUM_FILES = 10
SHAPE = (64, 64, 3)


@dataclass(frozen=True)
class ImageNet64:
    """ImageNet's training images, downsampled to 64x64; 15.7 GB in memory.

    Attributes:
      batch_size: images in a batch, over all devices.
      path: folder with train_data_batch_1.npz ... train_data_batch_10.npz.
      labelled: whether batches include the class.
    """

    batch_size: int = 2048
    path: str = "~/imagenet64"
    labelled: bool = True

    @property
    def spec(self) -> Spec:
        return image_spec(SHAPE, labelled=self.labelled)

    @property
    def num_classes(self) -> int | None:
        return 1000 if self.labelled else None

    def load(self) -> ImageArrays:
        """The training images.

        Raises:
          FileNotFoundError: a file is missing; the message says where to get it.
          ValueError: a file is damaged.
        """
        folder = Path(self.path).expanduser()
        files = [folder / f"train_data_batch_{i}.npz" for i in range(1, NUM_FILES + 1)]
        if missing := [file.name for file in files if not file.is_file()]:
            raise FileNotFoundError(
                f"{folder} holds no {missing[0]}; download the npz files of ImageNet at 64x64 from "
                "https://image-net.org/download-images.php (a free account is needed), unpack them "
                "into one folder DIR and add --data.path DIR."
            )
        parts = [_read(file) for file in files]
        pixels = np.concatenate([pixels for pixels, _ in parts])
        labels = np.concatenate([labels for _, labels in parts])
        names = tuple(str(index) for index in range(1000))
        return ImageArrays(pixels, labels if self.labelled else None, names, self.batch_size)


def _read(file: Path) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, 64, 64, 3) and classes 0 .. 999 of one file."""
    try:
        with np.load(file, allow_pickle=False) as arrays:
            flat, labels = arrays["data"], arrays["labels"]
    except (zipfile.BadZipFile, ValueError, EOFError, KeyError, OSError) as error:
        raise ValueError(f"{file} is damaged: {error}.") from error
    if flat.dtype != np.uint8 or flat.shape != (len(labels), 64 * 64 * 3):
        raise ValueError(f"{file} is damaged: data is {flat.dtype} {flat.shape}.")
    if labels.min() < 1 or labels.max() > 1000:
        raise ValueError(f"{file} is damaged: a label lies outside 1 .. 1000.")
    pixels = flat.reshape(-1, 3, 64, 64).transpose(0, 2, 3, 1)
    return pixels, labels.astype(np.int32) - 1
