"""Edits of emoji: two drawings of one subject that differ in skin tone, gender or hair alone.

The pictures of a pair are aligned pixel by pixel, because one artist drew them from one template.
"""

from collections.abc import Iterator, Sequence
from itertools import permutations
from typing import NamedTuple

from diffusion.data.emoji.code_points import CHILD, PERSON, base, is_held_out
from diffusion.data.emoji.looks import Look, look

KINDS = ("skin tone", "gender", "hair")
FIELDS = {"tone": "skin tone", "gender": "gender", "hair": "hair"}
YOUNG = {"man": "boy", "woman": "girl", "person": "child"}
HELD_OUT_GENDER = "woman"


class Edit(NamedTuple):
    """From one drawing to another.

    Attributes:
      source, target: indices of the drawings.
      kind: one of KINDS.
      instructions: ways to ask for it, the plainest first.
    """

    source: int
    target: int
    kind: str
    instructions: tuple[str, ...]


def edits(points: Sequence[tuple[int, ...]]) -> Iterator[Edit]:
    """All edits between drawings with these code points, both ways."""
    by_subject: dict[tuple[int, ...], list[tuple[int, Look]]] = {}
    for index, one in enumerate(points):
        if (seen := look(one)) is not None:
            by_subject.setdefault(seen.subject, []).append((index, seen))
    for looks in by_subject.values():
        for (source, before), (target, after) in permutations(looks, 2):
            changed = [name for name in FIELDS if getattr(before, name) != getattr(after, name)]
            if len(changed) == 1 and (asked := instructions(changed[0], after)):
                yield Edit(source, target, FIELDS[changed[0]], asked)


def instructions(changed: str, after: Look) -> tuple[str, ...]:
    """Ways to ask for a look, of which one thing is new; () for what has no name."""
    if changed == "tone":
        tone = after.tone
        return f"{tone} skin tone", f"{tone} skin", f"make the skin {tone}"
    if changed == "gender":
        gender = YOUNG[after.gender] if after.subject[0] == CHILD else after.gender
        return gender, f"make it a {gender}", f"turn into a {gender}"
    if after.hair == "bald":
        return "bald", "make the head bald", "no hair"
    return (f"{after.hair} hair", f"make the hair {after.hair}") if after.hair else ()


def on_test_side(points: tuple[int, ...]) -> bool:
    """Whether a drawing is held out: by its base, and women without a role for their hair.

    Hair is named of adults without a role alone, who are one base. So of these the women are held
    out: their hair is edited on faces that training has not seen.
    """
    seen = look(points)
    if seen is not None and seen.subject == (PERSON,):
        return seen.gender == HELD_OUT_GENDER
    return is_held_out(base(points))
