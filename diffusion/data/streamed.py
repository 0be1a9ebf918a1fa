"""A dataset whose pictures are decoded each time that they are drawn."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, Int32, UInt8

from diffusion.data import checksum, order
from diffusion.data.dataset import Spec, image_spec
from diffusion.data.fit import Fit
from diffusion.data.sources import Source
from diffusion.pixels import from_pixels


@dataclass(frozen=True, eq=False)
class Streamed:
    """Pictures of a source, for sets whose pixels fit neither into memory nor on the disk.

    Attributes:
      source: the pictures.
      kept: the pictures to use, as indices of the source.
      fit: how they are brought to one shape.
      classes: class of each kept picture, or None.
      batch_size: images in a batch, over all devices.
      num_workers: processes that prepare batches; 0 for none.
      pixels_checksum: `checksum.of_array` of the pictures as they were when they were prepared.
    """

    source: Source
    kept: Int[np.ndarray, "N"]
    fit: Fit
    classes: Int32[np.ndarray, "N"] | None
    batch_size: int
    num_workers: int
    pixels_checksum: int

    @property
    def spec(self) -> Spec:
        shape = (self.fit.height, self.fit.width, self.fit.channels)
        return image_spec(shape, labelled=self.classes is not None)

    def __len__(self) -> int:
        return len(self.kept)

    def batch(self, seed: int, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """{"image": float32 (B, H, W, C) in [-1, 1], "label": int32 (B,)}.

        Raises:
          OSError: a picture that could be read before cannot be read now.
        """
        chosen = order.indices(seed, step, self.batch_size, len(self))[rows]
        pixels = [self._pixels(int(index)) for index in self.kept[chosen]]
        labels = {name: values[chosen] for name, values in self._labels.items()}
        return {"image": from_pixels(np.stack(pixels)), **labels}

    def resident(self) -> None:
        return None

    def checksum(self) -> int:
        """The checksum of the same pictures in memory."""
        return checksum.of_examples(self.pixels_checksum, self._labels)

    @property
    def _labels(self) -> dict[str, np.ndarray]:
        return {} if self.classes is None else {"label": self.classes}

    def _pixels(self, index: int) -> UInt8[np.ndarray, "H W C"]:
        name = self.source.names[index]
        try:
            return self.fit(self.source.read(index), name)
        except (ValueError, OSError) as error:
            reason = getattr(error, "strerror", None) or str(error).rstrip(".")
            raise OSError(
                f"{name!r} could be read before training, and now cannot ({reason}); restore it "
                "and run the same command, which resumes from the last checkpoint."
            ) from error
