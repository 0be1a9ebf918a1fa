"""Emoji drawings in a folder, as image files named by their code points.

    1f9d1-1f3fb-200d-1f9b0.webp    hexadecimal, joined by - or _, in any case, with or without fe0f

npm's @lobehub/fluent-emoji-3d (Microsoft's Fluent Emoji, MIT) is such a folder, and so are the
images of Twemoji.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffusion.data.emoji.looks import STYLE

SUFFIXES = (".png", ".webp", ".jpg", ".jpeg")
NAME = re.compile(r"(emoji_)?u?([0-9a-f]{2,6}([-_][0-9a-f]{2,6})*)", re.IGNORECASE)


def version(folder: Path) -> str:
    """A checksum of all files' names, sizes and times of change."""
    digest = hashlib.sha256(str(folder.resolve()).encode())
    for path in sorted(_files(folder).values()):
        status = path.stat()
        digest.update(f"{path.name}\0{status.st_size} {status.st_mtime_ns}\0".encode())
    return digest.hexdigest()[:12]


def drawn(folder: Path, points: Sequence[tuple[int, ...]], size: int) -> list[np.ndarray | None]:
    """Pixels (size, size, 3) on white of each emoji; None for what there is no drawing of.

    Raises:
      OSError, ValueError: the folder holds no such files, or one is no image.
    """
    from diffusion.data.fit import Fit  # here, because it needs Pillow

    files, fit = _files(folder), Fit(size, size, 3)
    return [
        fit(files[one].read_bytes(), files[one].name) if one in files else None for one in points
    ]


def _files(folder: Path) -> dict[tuple[int, ...], Path]:
    """The files by their code points, without U+FE0F."""
    found = {}
    for path in folder.iterdir():
        if path.suffix.lower() in SUFFIXES and (name := NAME.fullmatch(path.stem)):
            points = [int(point, 16) for point in re.split("[-_]", name[2])]
            found[tuple(point for point in points if point != STYLE)] = path
    if not found:
        raise ValueError(
            f"{folder} holds no drawings of emoji: no .png, .webp or .jpg file there is named by "
            "code points, such as 1f600.png."
        )
    return found
