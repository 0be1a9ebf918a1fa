"""Noto Color Emoji, Google's drawings, as Debian's package fonts-noto-color-emoji installs them.

The font holds bitmaps of 136x128 pixels. Joined sequences are one glyph where Pillow has Raqm and
FriBiDi; without them they would fall apart into several.

Licence: SIL OFL 1.1.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffusion.data.emoji.looks import STYLE
from diffusion.optional import from_extra

FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")
SIZE = 109
"""The only size at which FreeType opens a font of bitmaps."""

FACE = "\U0001f600"
"""An emoji that is one glyph."""

CANVAS = 136
"""Height and width in pixels of the square on which each is drawn."""

INSTALL = "apt-get install fonts-noto-color-emoji libfribidi0"


def version() -> str:
    """A checksum of the font's size and time of change."""
    status = _font().stat()
    return hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode()).hexdigest()[:12]


def drawn(points: Sequence[tuple[int, ...]], size: int) -> list[np.ndarray | None]:
    """Pixels (size, size, 3) on white; None for what the font draws as no glyph or as several.

    Raises:
      OSError: the font, Raqm or FriBiDi is missing; says what to install.
    """
    with from_extra("emoji"):
        from PIL import Image, ImageDraw, ImageFont, features

    for needed in ("raqm", "fribidi"):
        if not features.check(needed):
            raise OSError(
                f"Pillow has no {needed}, without which joined emoji fall apart; run {INSTALL}, "
                "or use data.drawings=openmoji."
            )
    font = ImageFont.truetype(str(_font()), SIZE, layout_engine=ImageFont.Layout.RAQM)
    width = font.getlength(FACE)
    found: list[np.ndarray | None] = []
    for one in points:
        text = qualified(one)
        if font.getlength(text) != width:  # several glyphs, or none
            found.append(None)
            continue
        image = Image.new("RGB", (CANVAS, CANVAS), "white")
        ImageDraw.Draw(image).text((0, 0), text, font=font, embedded_color=True)
        pixels = np.asarray(image.resize((size, size), Image.Resampling.BOX))
        found.append(None if (pixels == 255).all() else pixels)  # a glyph that shows nothing
    return found


def qualified(points: tuple[int, ...]) -> str:
    """The emoji as text, with the sign for coloured drawing where a single point needs it."""
    text = "".join(map(chr, points))
    return text if len(points) > 1 else text + chr(STYLE)


def _font() -> Path:
    if not FONT.exists():
        raise FileNotFoundError(
            f"{FONT} does not exist; run {INSTALL}, or use data.drawings=openmoji."
        )
    return FONT
