"""What a person in an emoji looks like, as its code points say: skin tone, gender and hair."""

from typing import NamedTuple

from diffusion.data.emoji.code_points import CHILD, OLD_PERSON, PERSON

JOINER, STYLE = 0x200D, 0xFE0F
TONES = {
    0x1F3FB: "light",
    0x1F3FC: "medium-light",
    0x1F3FD: "medium",
    0x1F3FE: "medium-dark",
    0x1F3FF: "dark",
}
NO_TONE = "yellow"
HAIR = {0x1F9B0: "red", 0x1F9B1: "curly", 0x1F9B3: "white", 0x1F9B2: "bald"}
GENDER_SIGNS = {0x2642: "man", 0x2640: "woman"}
CROWNED, DANCER = 0x1FAC5, 0x1F483
PEOPLE = {
    0x1F468: (PERSON, "man"),
    0x1F469: (PERSON, "woman"),
    0x1F466: (CHILD, "man"),
    0x1F467: (CHILD, "woman"),
    0x1F474: (OLD_PERSON, "man"),
    0x1F475: (OLD_PERSON, "woman"),
    0x1F934: (CROWNED, "man"),
    0x1F478: (CROWNED, "woman"),
    0x1F57A: (DANCER, "man"),
    DANCER: (DANCER, "woman"),
}
"""Code points of one gender: the neutral one, and which gender it is."""

SANTA = {0x1F385: "man", 0x1F936: "woman"}
MX_CLAUS = (PERSON, JOINER, 0x1F384)


class Look(NamedTuple):
    """An emoji of one person, or anything else in one look.

    Attributes:
      subject: the code points that remain, of the person whose gender is open.
      tone: of the skin, "yellow" where the emoji names none.
      gender: "man", "woman" or "person"; "person" too where nobody is shown.
      hair: "red", "curly", "white", "bald", or "" where the emoji names none.
    """

    subject: tuple[int, ...]
    tone: str
    gender: str
    hair: str


def look(points: tuple[int, ...]) -> Look | None:
    """The look of an emoji; None where it shows several people whose looks differ."""
    points = tuple(point for point in points if point != STYLE)
    tones = [TONES[point] for point in points if point in TONES]
    if len(tones) > 1:
        return None
    hair = "".join(HAIR[point] for point in points if point in HAIR)
    rest = tuple(point for point in points if point not in TONES and point not in HAIR)
    while rest and rest[-1] == JOINER:  # it joined the hair
        rest = rest[:-1]
    gender = "person"
    if len(rest) > 2 and rest[-2] == JOINER and rest[-1] in GENDER_SIGNS:
        rest, gender = rest[:-2], GENDER_SIGNS[rest[-1]]
    elif rest and rest[0] in SANTA:
        rest, gender = (*MX_CLAUS, *rest[1:]), SANTA[rest[0]]
    elif rest and rest[0] in PEOPLE and not any(point in PEOPLE for point in rest[1:]):
        neutral, gender = PEOPLE[rest[0]]
        rest = (neutral, *rest[1:])
    return Look(rest, tones[0] if tones else NO_TONE, gender, hair)
