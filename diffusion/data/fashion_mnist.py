"""Fashion-MNIST: 60,000 real grey 28x28 images of clothes in ten classes (the training split).

On Debian and Ubuntu, `apt install dataset-fashion-mnist` installs the files in the default folder.
They can also be downloaded from github.com/zalandoresearch/fashion-mnist.

Source: Xiao, Rasul & Vollgraf 2017, arXiv:1708.07747; file format LeCun's IDX.
"""

import gzip
import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from diffusion.data.arrays import ImageArrays
from diffusion.data.dataset import Spec, image_spec

NAMES = (
    *("t-shirt", "trouser", "pullover", "dress", "coat"),
    *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
)

PREFIXES = {"train": "train", "test": "t10k"}
"""What the names of a split's files begin with."""


@dataclass(frozen=True)
class FashionMnist:
    """Real 28x28 images of clothes with their labels.

    Attributes:
      batch_size: images in a batch, over all devices.
      path: folder with train-images-idx3-ubyte.gz and train-labels-idx1-ubyte.gz.
      labelled: whether batches include the class.
      split: "train", or "test" for the 10,000 others (t10k-*.gz).
    Raises:
      ValueError: there is no such split.
    """

    batch_size: int = 128
    path: str = "/usr/share/datasets/fashion-mnist"
    labelled: bool = True
    split: str = "train"

    def __post_init__(self):
        if self.split not in PREFIXES:
            raise ValueError(f"split={self.split!r}; use {' or '.join(PREFIXES)}.")

    @property
    def held_out(self) -> "FashionMnist":
        return replace(self, split="test")

    @property
    def spec(self) -> Spec:
        return image_spec((28, 28, 1), labelled=self.labelled)

    @property
    def num_classes(self) -> int | None:
        return len(NAMES) if self.labelled else None

    @property
    def class_names(self) -> tuple[str, ...] | None:
        return NAMES if self.labelled else None

    def load(self) -> ImageArrays:
        """The images of the split.

        Raises:
          FileNotFoundError: a file is missing; the message says where to get it.
          ValueError: a file is damaged.
        """
        folder = Path(self.path).expanduser()
        prefix = PREFIXES[self.split]
        images = _read_idx(folder / f"{prefix}-images-idx3-ubyte.gz", dims=3)
        labels = _read_idx(folder / f"{prefix}-labels-idx1-ubyte.gz", dims=1)
        if len(images) != len(labels) or labels.max() >= len(NAMES):
            raise ValueError(
                f"{folder}: the labels do not belong to the images; download both files again."
            )
        classes = labels.astype(np.int32) if self.labelled else None
        return ImageArrays(images[..., None], classes, NAMES, self.batch_size)


def _read_idx(path: Path, dims: int) -> np.ndarray:
    """uint8 values of an IDX file: 0, 0, 8 (uint8), number of axes, their sizes, the values."""
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist; `apt install dataset-fashion-mnist`, or download "
            f"{path.name} and the other files from "
            "https://github.com/zalandoresearch/fashion-mnist and add --data.path with their "
            "folder."
        )
    try:
        content = gzip.decompress(path.read_bytes())
    except (OSError, EOFError) as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    header = 4 + 4 * dims
    shape = tuple(np.frombuffer(content[4:header], ">u4").astype(int).tolist())
    if content[:4] != bytes([0, 0, 8, dims]) or len(content) != header + math.prod(shape):
        raise ValueError(f"{path} is damaged: it is not an IDX file with {dims} axes.")
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)
