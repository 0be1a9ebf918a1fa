"""Your own pictures: a folder, a ZIP, tar shards, arrays, or a dataset by its name.

Each picture is turned upright by its EXIF tag, laid over a background where it is transparent,
cropped to its middle and resized by area. All are read once, before training starts, and the result
is kept in a cache; see `preparation`.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion.data.arrays import ImageArrays
from diffusion.data.dataset import Dataset, Spec, image_spec
from diffusion.data.sources import Labels, open_source

NAMED = 10
"""Pictures that cannot be read are counted, and this many of them are named."""


@dataclass(frozen=True)
class Pictures:
    """Pictures of any size and kind, with or without labels.

    Attributes:
      path: a folder with its sub-folders, a .zip, .tar, .npz or .npy file, a folder of tar shards
        or shard-{000..127}.tar, tfds:NAME[:SPLIT], or hf:NAME[:SPLIT].
      batch_size: images in a batch, over all devices.
      image_size: height and width to which pictures are cropped and resized; one number for both.
      channels: 1 for grey, 3 for RGB, 4 for RGBA.
      labels: where classes are found. For a folder or ZIP "folders" (the name of the sub-folder),
        or a file in it: labels.csv[:COLUMN], metadata.jsonl[:COLUMN] or dataset.json. For tar
        shards "cls" or "json:KEY", for .npz the array's name, else the feature's. none for no
        classes.
      class_names: names of the classes in order; none reads them from the data.
      background: grey value 0 .. 255 over which what is transparent is laid.
      on_error: "skip" leaves out pictures that cannot be read, and names them; "stop" refuses them.
      keeps_pixels: whether resized pixels are kept in cache_dir, which takes a byte for each value;
        false decodes a picture each time that it is drawn.
      cache_dir: folder for what is kept of the pictures.
      num_workers: processes that read pictures; none for one a core.
    Raises:
      ValueError: a value is not allowed, or the labels cannot be read.
      OSError: class_names is None, labels is not, and path cannot be opened.
    """

    path: str = ""
    batch_size: int = 64
    image_size: int | tuple[int, ...] = 64
    channels: int = 3
    labels: str | None = None
    class_names: tuple[str, ...] | None = None
    background: int = 255
    on_error: str = "skip"
    keeps_pixels: bool = True
    cache_dir: str = "~/.cache/unet-flax"
    num_workers: int | None = None

    def __post_init__(self):
        size = self.image_size if isinstance(self.image_size, tuple) else (self.image_size,) * 2
        if len(size) != 2 or min(size) < 1:
            raise ValueError(f"image_size={self.image_size} is not one number or two, each >= 1.")
        if self.channels not in (1, 3, 4):
            raise ValueError(f"channels={self.channels}; use 1 (grey), 3 (RGB) or 4 (RGBA).")
        if not 0 <= self.background <= 255:
            raise ValueError(f"background={self.background} is outside 0 .. 255.")
        if self.on_error not in ("skip", "stop"):
            raise ValueError(f"on_error={self.on_error!r}; use skip or stop.")
        if self.num_workers is not None and self.num_workers < 0:
            raise ValueError(f"num_workers={self.num_workers} must be 0 or more.")
        if self.labels is not None and self.class_names is None:
            names = self._labels().names  # the network's number of classes, which only they tell
            object.__setattr__(self, "class_names", names)
        if self.labels is None and self.class_names is not None:
            raise ValueError("class_names are given, but labels is none; say where they are.")

    @property
    def _shape(self) -> tuple[int, int, int]:
        size = self.image_size
        height, width = size if isinstance(size, tuple) else (size, size)
        return height, width, self.channels

    @property
    def spec(self) -> Spec:
        return image_spec(self._shape, labelled=self.labels is not None)

    @property
    def num_classes(self) -> int | None:
        return None if self.class_names is None else len(self.class_names)

    def _labels(self) -> Labels:
        assert self.labels is not None
        return open_source(self._path()).labels(self.labels)

    def _path(self) -> str:
        if not self.path:
            raise ValueError("path is empty; give a folder or a file of pictures by --data.path.")
        return self.path

    def load(self) -> Dataset:
        """The pictures, read and kept on first use.

        Raises:
          OSError: the path cannot be opened, or the cache not be written.
          ValueError: there are no pictures, one cannot be read and on_error is "stop", or the
            labels are not those of class_names.
        """
        from diffusion.data.fit import Fit  # here, because arrays need no Pillow and no POSIX
        from diffusion.data.preparation import prepare
        from diffusion.data.streamed import Streamed

        source, fit = open_source(self._path()), Fit(*self._shape, self.background)
        workers = _cores() if self.num_workers is None else self.num_workers
        cache = Path(self.cache_dir).expanduser()
        prepared = prepare(source, fit, cache, keeps_pixels=self.keeps_pixels, num_workers=workers)
        self._report(prepared.rejected, len(source.names))
        classes = self._classes(source.labels(self.labels)) if self.labels is not None else None
        classes = None if classes is None else classes[prepared.kept]
        if prepared.pixels is not None:
            names = self.class_names or ()
            return ImageArrays(
                prepared.pixels,
                classes,
                names,
                self.batch_size,
                pixels_checksum=prepared.checksum,
            )
        kept, checksum = prepared.kept, prepared.checksum
        return Streamed(source, kept, fit, classes, self.batch_size, workers, checksum)

    def _classes(self, found: Labels) -> np.ndarray:
        if found.names != self.class_names:
            raise ValueError(
                f"labels={self.labels} of {self.path} have {len(found.names)} classes "
                f"({', '.join(found.names[:5])}, ...), but class_names has "
                f"{len(self.class_names or ())} others; the data has changed."
            )
        return found.classes

    def _report(self, rejected: Sequence[tuple[int, str]], total: int) -> None:
        if not rejected:
            return
        reasons = "; ".join(reason.rstrip(".") for _, reason in rejected[:NAMED])
        more = f"; and {len(rejected) - NAMED} more" if len(rejected) > NAMED else ""
        said = f"{len(rejected)} of {total} pictures cannot be read: {reasons}{more}."
        said = "".join(map(_printable, said))
        if self.on_error == "stop" or len(rejected) == total:
            raise ValueError(f"{self.path}: {said}")
        print(f"Skipped: {said}", file=sys.stderr, flush=True)


def _printable(letter: str) -> str:
    """A letter of a file's name, which may be a line's end, or no text at all."""
    return letter if letter.isprintable() else letter.encode("unicode_escape").decode()


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
