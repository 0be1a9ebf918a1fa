"""A dataset whose pictures are decoded each time that they are drawn."""

from dataclasses import dataclass

import jax
import numpy as np
from jaxtyping import Int, UInt8

from diffusion.data import checksum, order
from diffusion.data.dataset import Spec, image_spec
from diffusion.data.fit import Fit
from diffusion.data.sources import Source
from diffusion.data.text.texts import Texts
from diffusion.pixels import from_pixels


@dataclass(frozen=True, eq=False)
class Streamed:
    """Pictures of a source, for sets whose pixels fit neither into memory nor on the disk.

    Attributes:
      source: the pictures.
      kept: the pictures to use, as indices of the source.
      fit: how they are brought to one shape.
      others: the label and other conditions of each kept picture, by name.
      batch_size: images in a batch, over all devices.
      num_workers: processes that prepare batches; 0 for none.
      pixels_checksum: `checksum.of_array` of the pictures as they were when they were prepared.
      texts: the texts that conditions were read from, if there are any.
    """

    source: Source
    kept: Int[np.ndarray, "N"]
    fit: Fit
    others: dict[str, np.ndarray]
    batch_size: int
    num_workers: int
    pixels_checksum: int
    texts: Texts | None = None

    @property
    def spec(self) -> Spec:
        shape = (self.fit.height, self.fit.width, self.fit.channels)
        others = {
            name: jax.ShapeDtypeStruct(values.shape[1:], values.dtype)
            for name, values in self.others.items()
        }
        return image_spec(shape, labelled=False) | others

    def __len__(self) -> int:
        return len(self.kept)

    def batch(self, seed: int, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """{"image": float32 (B, H, W, C) in [-1, 1], "label": int32 (B,), ...}.

        Raises:
          OSError: a picture that could be read before cannot be read now.
        """
        return self.rows(order.indices(seed, step, self.batch_size, len(self))[rows])

    def rows(self, index: Int[np.ndarray, "B"]) -> dict[str, np.ndarray]:
        """The examples with these indices, as `batch` returns them."""
        pixels = [self._pixels(int(picture)) for picture in self.kept[index]]
        others = {name: values[index] for name, values in self.others.items()}
        return {"image": from_pixels(np.stack(pixels)), **others}

    def first(self, count: int) -> Int[np.ndarray, "N"]:
        """Some examples in the order of seed 0, the same whatever the size of a batch."""
        return order.indices(0, 0, count, len(self))

    def resident(self) -> None:
        return None

    def checksum(self) -> int:
        """The checksum of the same pictures in memory."""
        return checksum.of_examples(self.pixels_checksum, self.others)

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
