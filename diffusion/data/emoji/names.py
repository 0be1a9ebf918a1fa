"""The names of emoji in English, as captions.

Source: Unicode CLDR's short names, by the package `emoji`, whose names have neither colons nor
commas.
"""

from diffusion.data.emoji.looks import STYLE
from diffusion.optional import from_extra

VERSION = 15.0
"""The newest version of Unicode whose emoji are used: all sets have drawings for these."""

FLAG_LETTERS = range(0x1F1E6, 0x1F200)
BLACK_FLAG, FIRST_TAG = 0x1F3F4, 0xE0061


def captions() -> dict[tuple[int, ...], str]:
    """The name of every emoji by its code points without U+FE0F, such as "flag: Italy".

    Raises:
      ExtraNotInstalled: the package `emoji` is not installed.
    """
    with from_extra("emoji"):
        import emoji

    named: dict[tuple[int, ...], str] = {}
    for text, entry in emoji.EMOJI_DATA.items():
        if entry["status"] == emoji.STATUS["fully_qualified"] and entry["E"] <= VERSION:
            points: tuple[int, ...] = tuple(ord(letter) for letter in text if ord(letter) != STYLE)
            name = entry["en"].strip(":").replace("_", " ").replace("’", "'")
            named[points] = f"flag: {name}" if is_flag_of_place(points) else name
    return named


def is_flag_of_place(points: tuple[int, ...]) -> bool:
    """Whether an emoji is the flag of a country or a part of one."""
    first, *others = points
    return first in FLAG_LETTERS or (first == BLACK_FLAG and max(others, default=0) >= FIRST_TAG)
