"""scikit-learn's handwritten digits: 1,797 real grey images of 8x8 pixels, no download.

Source: UCI ML hand-written digits, the test part (Alpaydin & Kaynak 1998).
"""

from dataclasses import dataclass

import numpy as np

from diffusion.data.arrays import ImageArrays


@dataclass(frozen=True)
class Digits:
    """Real 8x8 digits with their labels.

    Attributes:
      batch_size: images in a batch, over all devices.
    """

    batch_size: int = 64

    def load(self) -> ImageArrays:
        """All 1,797 images; the 17 grey levels of the source are spread over 0..255."""
        from sklearn.datasets import load_digits  # here: importing it takes a second

        grey, labels = load_digits(return_X_y=True)
        pixels = np.round(grey.reshape(-1, 8, 8, 1) * (255 / 16)).astype(np.uint8)
        names = tuple(str(digit) for digit in range(10))
        return ImageArrays(pixels, labels.astype(np.int32), names, self.batch_size)
