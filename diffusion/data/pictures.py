"""Your own pictures: a folder, a ZIP, tar shards, arrays, or a dataset by its name.

Each picture is turned upright by its EXIF tag, laid over a background where it is transparent,
cropped to its middle and resized by area. All are read once, before training starts, and the result
is kept in a cache; see `preparation`.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from diffusion.data import reports
from diffusion.data.arrays import ImageArrays
from diffusion.data.dataset import Dataset, Spec, image_spec
from diffusion.data.sources import Labels, Source, open_source
from diffusion.data.sources.labels import FILE_COLUMNS
from diffusion.data.sources.tables import check_pictures, read_table
from diffusion.data.text.texts import Texts
from diffusion.data.text.words import Words


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
      captions: where the text of each picture is found: a file in the folder or ZIP,
        metadata.jsonl[:COLUMN] or captions.csv[:COLUMN] (column "text"), for tar shards "txt" or
        "json:KEY", for .npz the array's name, else the feature's. none for no texts.
      text: how captions are read.
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
    captions: str | None = None
    text: Words = Words()
    background: int = 255
    on_error: str = "skip"
    keeps_pixels: bool = True
    cache_dir: str = "~/.cache/unet-flax"
    num_workers: int | None = None

    def __post_init__(self):
        reports.check_fields(self, channels=(1, 3, 4))
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
        spec = image_spec(self._shape, labelled=self.labels is not None)
        return spec if self.captions is None else spec | self.text.spec

    @property
    def num_classes(self) -> int | None:
        return None if self.class_names is None else len(self.class_names)

    @property
    def vocab_size(self) -> int:
        return self.text.vocab_size

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
        workers = reports.cores() if self.num_workers is None else self.num_workers
        cache = Path(self.cache_dir).expanduser()
        prepared = prepare(source, fit, cache, keeps_pixels=self.keeps_pixels, num_workers=workers)
        reasons = [reason for _, reason in prepared.rejected]
        stops = self.on_error == "stop"
        reports.report(self.path, "pictures", reasons, len(source.names), stops=stops)
        classes = self._classes(source.labels(self.labels)) if self.labels is not None else None
        classes = None if classes is None else classes[prepared.kept]
        texts = None if self.captions is None else self._texts(source, prepared.kept)
        conditions = {} if texts is None else texts.reader(texts.captions)
        if prepared.pixels is not None:
            names = self.class_names or ()
            return ImageArrays(
                prepared.pixels,
                classes,
                names,
                self.batch_size,
                conditions=conditions,
                texts=texts,
                pixels_checksum=prepared.checksum,
            )
        others = conditions if classes is None else {"label": classes, **conditions}
        return Streamed(
            source, prepared.kept, fit, others, self.batch_size, workers, prepared.checksum, texts
        )

    def _texts(self, source: Source, kept: np.ndarray) -> Texts:
        assert self.captions is not None
        file, _, column = self.captions.partition(":")
        if file.lower().endswith((".csv", ".jsonl")):
            rows = read_table(source, file, (FILE_COLUMNS, (column or "text",)))
            table = {name.removeprefix("./"): text for name, text in rows}
            names = [name.removeprefix("./") for name in source.names]
            check_pictures(file, list(table), names)
            if without := [name for name in names if name not in table]:
                raise ValueError(
                    f"{file} has no text for {len(without)} of {len(names)} pictures, such as "
                    f"{without[0]!r}; add it, or move the pictures away."
                )
            captions = tuple(table[names[index]] for index in kept)
        else:
            found = source.labels(self.captions)
            captions = tuple(found.names[index] for index in found.classes[kept])
        return Texts(captions, self.text.fit(captions))

    def _classes(self, found: Labels) -> np.ndarray:
        if found.names != self.class_names:
            raise ValueError(
                f"labels={self.labels} of {self.path} have {len(found.names)} classes "
                f"({', '.join(found.names[:5])}, ...), but class_names has "
                f"{len(self.class_names or ())} others; the data has changed."
            )
        return found.classes
