"""Laws of emoji as pairs: a drawing, an instruction, and the drawing that it asks for."""

import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from diffusion.data import EmojiEdits
from diffusion.data.emoji import drawings, folder, noto
from diffusion.data.emoji.edits import KINDS, edits, on_test_side
from diffusion.data.emoji.looks import Look, look
from diffusion.data.emoji.names import captions
from diffusion.optional import ExtraNotInstalled

PERSON, ASTRONAUT, RUNNER = (0x1F9D1,), (0x1F9D1, 0x200D, 0x1F680), (0x1F3C3,)


def points(name):
    return tuple(int(point, 16) for point in name.split("-"))


@pytest.mark.parametrize(
    ("name", "seen"),
    [
        ("1F469-1F3FE-200D-1F9B0", Look(PERSON, "medium-dark", "woman", "red")),
        ("1F468-200D-1F9B2", Look(PERSON, "yellow", "man", "bald")),
        ("1F9D1-1F3FB", Look(PERSON, "light", "person", "")),
        ("1F468-1F3FF-200D-1F680", Look(ASTRONAUT, "dark", "man", "")),
        ("1F3C3-1F3FD-200D-2640-FE0F", Look(RUNNER, "medium", "woman", "")),
        ("1F3C3-200D-2642", Look(RUNNER, "yellow", "man", "")),
        ("1F466", Look((0x1F9D2,), "yellow", "man", "")),
        ("1F936-1F3FC", Look((0x1F9D1, 0x200D, 0x1F384), "medium-light", "woman", "")),
        ("1F44B-1F3FB", Look((0x1F44B,), "light", "person", "")),
        ("2764-FE0F", Look((0x2764,), "yellow", "person", "")),
        ("1F9D1-1F3FB-200D-1F91D-200D-1F9D1-1F3FF", None),  # two tones
        ("1F468-200D-1F469", Look((0x1F468, 0x200D, 0x1F469), "yellow", "person", "")),
    ],
)  # fmt: skip
def test_an_emojis_look_is_what_its_code_points_say(name, seen):
    assert look(points(name)) == seen


@pytest.fixture(scope="module")
def found():
    return list(edits(sorted(captions())))


def test_the_edits_are_those_that_unicode_has(found):
    kinds = Counter(edit.kind for edit in found)
    assert kinds["skin tone"] == 298 * 6 * 5
    # man, woman and person in six tones: of none and four kinds of hair, to another of the four
    assert kinds["hair"] == 3 * 6 * (4 + 4 * 3)
    assert set(kinds) == set(KINDS)


def test_an_edit_changes_one_thing_and_asks_for_what_the_target_has(found):
    names = sorted(captions())
    for edit in found:
        before, after = look(names[edit.source]), look(names[edit.target])
        assert sum(a != b for a, b in zip(before, after, strict=True)) == 1
        asked = edit.instructions[0]
        word = {"skin tone": after.tone, "gender": "", "hair": after.hair}[edit.kind]
        assert word in asked and len(set(edit.instructions)) == len(edit.instructions) > 1


def test_each_instruction_of_a_source_asks_for_one_target(found):
    asked = Counter((edit.source, edit.instructions[0]) for edit in found)
    assert set(asked.values()) == {1}


def test_all_looks_of_a_subject_are_on_one_side_but_women_without_a_role():
    sides = {}
    for one in captions():
        if (seen := look(one)) is not None and seen.subject != PERSON:
            sides.setdefault(seen.subject, set()).add(on_test_side(one))
    assert {len(side) for side in sides.values()} == {1}
    genders = {"1F469-200D-1F9B0": True, "1F468-200D-1F9B0": False, "1F9D1": False, "1F469": True}
    assert {name: on_test_side(points(name)) for name in genders} == genders


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return EmojiEdits(image_size=8, cache_dir=str(tmp_path_factory.mktemp("cache")))


@pytest.fixture(scope="module")
def loaded(data):
    return data.load(), data.held_out.load()


def test_no_drawing_is_on_both_sides(loaded):
    train, test = loaded
    seen = {pixels.tobytes() for pixels in [*train.pixels, *train.conditions["condition"]]}
    unseen = {pixels.tobytes() for pixels in [*test.pixels, *test.conditions["condition"]]}
    # at 8x8 pixels few drawings of different subjects may be the same
    assert len(seen & unseen) <= 0.02 * len(unseen)
    assert {kind: len(index) > 0 for kind, index in test.mixture.groups.items()} == dict.fromkeys(
        KINDS, True
    )


def test_the_batch_is_what_the_spec_says_at_the_shares(data, loaded):
    train, _ = loaded
    batch = train.batch(0, 3)
    assert {name: (array.shape[1:], array.dtype) for name, array in batch.items()} == {
        name: (one.shape, one.dtype) for name, one in data.spec.items()
    }
    assert np.abs(batch["condition"]).max() <= 1 and (batch["image"] != batch["condition"]).any()
    index = train.indices(0, 3)
    shares = [np.isin(index, group).sum() for group in train.mixture.groups.values()]
    assert np.abs(np.array(shares) - 32 * np.array([3, 1, 1]) / 5).max() < 1.01


def test_held_out_instructions_are_read_as_those_of_training(loaded):
    train, test = loaded
    assert train.texts.reader.to_json() == test.texts.reader.to_json()
    assert not any(test.texts.reader.unknown_words(text) for text in set(test.texts.captions))


def test_drawings_are_kept_and_a_damaged_cache_is_drawn_again(tmp_path):
    Image.new("RGB", (20, 20), "red").save(tmp_path / "1f600.png")
    cache = tmp_path / "cache"

    def drawn():
        drawings.drawings.cache_clear()
        return drawings.drawings(str(tmp_path), 8, str(cache))

    first = drawn()
    (file,) = cache.glob("*.npz")
    written = file.stat().st_mtime_ns
    np.testing.assert_array_equal(drawn().pixels, first.pixels)
    assert file.stat().st_mtime_ns == written
    file.write_bytes(file.read_bytes()[:100])
    np.testing.assert_array_equal(drawn().pixels, first.pixels)
    Image.new("RGB", (20, 20), "blue").save(tmp_path / "1f600.png")  # another set
    assert (drawn().pixels != first.pixels).any()


def test_a_folder_of_images_named_by_code_points_is_a_set(tmp_path):
    for name, grey in {"1f600": 10, "1F44B_1F3FB": 20, "emoji_u2764_fe0f": 30}.items():
        Image.new("RGB", (20, 20), (grey,) * 3).save(tmp_path / f"{name}.png")
    (tmp_path / "readme.txt").write_text("no drawing")
    found = drawings.drawings(str(tmp_path), 8, str(tmp_path / "cache"))
    assert dict(zip(found.points, found.pixels[:, 0, 0, 0].tolist(), strict=True)) == {
        (0x1F600,): 10,
        (0x1F44B, 0x1F3FB): 20,
        (0x2764,): 30,
    }


@pytest.mark.skipif(not noto.FONT.exists(), reason="needs Debian's fonts-noto-color-emoji")
def test_noto_draws_joined_emoji_as_one_and_others_not():
    one, several, none = noto.drawn([points("1F469-1F3FD-200D-1F9B0"), (97, 98), (0x1F9D1, 97)], 16)
    assert one.shape == (16, 16, 3) and several is None and none is None


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"split": "val"}, "use train or test"),
        ({"image_size": 4}, "must be 8 or more"),
        ({"shares": (1, 1)}, "3 whole numbers"),
        ({"shares": (0, 0, 0)}, "not all 0"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        EmojiEdits(**fields)


def test_a_set_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ValueError, match="neither openmoji, noto nor a folder"):
        EmojiEdits(drawings="wingdings").load()
    with pytest.raises(ValueError, match="holds no drawings of emoji"):
        folder.version(tmp_path)


def test_what_a_set_needs_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(noto, "FONT", tmp_path / "none.ttf")
    with pytest.raises(FileNotFoundError, match="apt-get install fonts-noto-color-emoji"):
        noto.version()
    monkeypatch.setitem(sys.modules, "emoji", None)
    with pytest.raises(ExtraNotInstalled, match=r"unet-flax\[emoji\]"):
        captions()
