"""scikit-learn's handwritten digits: 1,797 real grey images of 8x8 pixels, no download.

Source: UCI ML hand-written digits, the test part (Alpaydin & Kaynak 1998).
"""

from dataclasses import dataclass

import numpy as np

from diffusion.data.arrays import ImageArrays
from diffusion.data.dataset import Spec, image_spec
from diffusion.optional import from_extra


@dataclass(frozen=True)
class Digits:
    """Real 8x8 digits with their labels.

    Attributes:
      batch_size: images in a batch, over all devices.
      labelled: whether batches include the class.
    """

    batch_size: int = 64
    labelled: bool = True

    @property
    def spec(self) -> Spec:
        return image_spec((8, 8, 1), labelled=self.labelled)

    @property
    def num_classes(self) -> int | None:
        return 10 if self.labelled else None

    def load(self) -> ImageArrays:
        """All 1,797 images; the source's 17 grey levels are scaled to 0 .. 255."""
        with from_extra("train"):  # imported here because that takes a second
            from sklearn.datasets import load_digits

        grey, labels = load_digits(return_X_y=True)
        pixels = np.round(grey.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
        names = tuple(str(digit) for digit in range(10))
        labels = labels.astype(np.int32) if self.labelled else None
        return ImageArrays(pixels, labels, names, self.batch_size)
