"""Emoji by their Unicode code points: which are variants of one drawing, and which are held out."""

import hashlib

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
