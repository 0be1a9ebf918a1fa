"""Your own edits: pairs of pictures with an instruction, in a folder or a ZIP.

A table among the pictures has a line for each pair:

    {"original_image": "a/1.png", "edit_prompt": "make it night", "edited_image": "a/2.png"}

as in the data of InstructPix2Pix. Pictures are read, fitted and kept as those of `pictures`.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion.data import reports
from diffusion.data.arrays import ImageArrays
from diffusion.data.dataset import Spec, image_spec
from diffusion.data.sources import Source, open_source
from diffusion.data.sources.tables import check_pictures, read_table
from diffusion.data.text.texts import Texts
from diffusion.data.text.words import Words

COLUMNS = (
    ("original_image", "input_image", "original_image_file_name", "input_image_file_name"),
    ("edit_prompt", "instruction", "text", "edit"),
    ("edited_image", "output_image", "edited_image_file_name", "output_image_file_name"),
)
"""The names that the three columns may have."""


@dataclass(frozen=True)
class PicturePairs:
    """Pictures, each with an instruction and the picture that it asks for.

    The batch has the picture to edit as "condition", the instruction as "text", and the picture
    that it asks for as "image".

    Attributes:
      path: a folder with its sub-folders, or a .zip file.
      batch_size: pairs in a batch, over all devices.
      image_size: height and width to which pictures are cropped and resized; one number for both.
      channels: 1 for grey, 3 for RGB.
      table: the file among the pictures that has the pairs.
      text: how instructions are read.
      background: grey value 0 .. 255 over which what is transparent is laid.
      on_error: "skip" leaves out pairs that cannot be read, and names them; "stop" refuses them.
      cache_dir: folder for what is kept of the pictures.
      num_workers: processes that read pictures; none for one a core.
    Raises:
      ValueError: a value is not allowed.
    """

    path: str = ""
    batch_size: int = 64
    image_size: int | tuple[int, ...] = 64
    channels: int = 3
    table: str = "metadata.jsonl"
    text: Words = Words(vocab_size=8192, num_tokens=24)
    background: int = 255
    on_error: str = "skip"
    cache_dir: str = "~/.cache/unet-flax"
    num_workers: int | None = None

    def __post_init__(self):
        reports.check_fields(self, channels=(1, 3))

    @property
    def _shape(self) -> tuple[int, int, int]:
        size = self.image_size
        height, width = size if isinstance(size, tuple) else (size, size)
        return height, width, self.channels

    @property
    def spec(self) -> Spec:
        condition = {"condition": jax.ShapeDtypeStruct(self._shape, np.float32)}
        return image_spec(self._shape, labelled=False) | condition | self.text.spec

    @property
    def num_classes(self) -> None:
        return None

    @property
    def vocab_size(self) -> int:
        return self.text.vocab_size

    def load(self) -> ImageArrays:
        """The pairs, read and kept on first use.

        Raises:
          OSError: the path cannot be opened, or the cache not be written.
          ValueError: there are no pairs, the table names pictures that are not there, or a pair
            cannot be read and on_error is "stop".
        """
        from diffusion.data.fit import Fit  # here, because arrays need no Pillow and no POSIX
        from diffusion.data.preparation import prepare

        if not self.path:
            raise ValueError("path is empty; give a folder or a ZIP of pairs by --data.path.")
        source, fit = open_source(self.path), Fit(*self._shape, self.background)
        table = read_table(source, self.table, COLUMNS)
        table = [(a.removeprefix("./"), text, b.removeprefix("./")) for a, text, b in table]
        row_of = {name.removeprefix("./"): index for index, name in enumerate(source.names)}
        check_pictures(self.table, [name for a, _, b in table for name in (a, b)], list(row_of))
        workers = reports.cores() if self.num_workers is None else self.num_workers
        prepared = prepare(
            source,
            fit,
            Path(self.cache_dir).expanduser(),
            keeps_pixels=True,
            num_workers=workers,
        )
        reasons = {one.picture: one.reason for one in prepared.rejected}
        good, bad = [], []
        for before, caption, after in table:
            pair = row_of[before], row_of[after]
            reason = next((reasons[one] for one in pair if one in reasons), None)
            if reason := reason or _unequal(source, pair):
                bad.append(reason)
            else:
                good.append((*pair, caption))
        stops = self.on_error == "stop"
        reports.report(self.path, "pairs", bad, len(table), stops=stops)
        assert prepared.pixels is not None
        place = {picture: place for place, picture in enumerate(prepared.kept.tolist())}
        captions = tuple(caption for *_, caption in good)
        reader = self.text.fit(captions)
        return ImageArrays(
            np.asarray(prepared.pixels[[place[after] for _, after, _ in good]]),
            None,
            (),
            self.batch_size,
            conditions={
                "condition": np.asarray(prepared.pixels[[place[before] for before, *_ in good]]),
                **reader(captions),
            },
            texts=Texts(captions, reader),
        )


def _unequal(source: Source, pair: Sequence[int]) -> str | None:
    """Why the pictures of a pair do not lie over each other; None if they do."""
    sizes = [_size(source, picture) for picture in pair]
    if sizes[0] == sizes[1]:
        return None
    first, second = (
        f"{source.names[picture]} is {width} x {height}"
        for picture, (width, height) in zip(pair, sizes, strict=True)
    )
    return f"{first}, but {second} pixels (width x height)"


def _size(source: Source, picture: int) -> tuple[int, int]:
    """Width and height as a viewer shows the picture."""
    from PIL import Image

    content: Any = source.read(picture)
    with Image.open(io.BytesIO(content)) as image:
        width, height = image.size
        turned = image.getexif().get(0x0112, 1) >= 5  # by a quarter
    return (height, width) if turned else (width, height)
