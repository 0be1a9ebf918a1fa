"""Laws of texts of one's own pictures: captions, and pairs with an instruction."""

import json
import zipfile

import numpy as np
import pytest
from PIL import Image

from diffusion.data import PicturePairs, Pictures
from diffusion.data.fit import Fit
from diffusion.data.text.words import Words
from diffusion.pixels import to_pixels


def write_pictures(folder, **sizes):
    """Pictures by their names, each of noise of its own."""
    for seed, (name, size) in enumerate(sorted(sizes.items())):
        pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
        file = folder / f"{name}.png"
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(file)


def write_table(file, rows):
    if file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        lines = [",".join(rows[0]), *(",".join(f'"{v}"' for v in row.values()) for row in rows)]
        file.write_text("\n".join(lines) + "\n")


def captioned(folder, file="metadata.jsonl", **fields):
    options = dict(path=str(folder), image_size=8, batch_size=2, captions=file, num_workers=0)
    options |= dict(cache_dir=str(folder.parent / "cache"), text=Words(20, 4))
    return Pictures(**options | fields)


def pairs(folder, **fields):
    options = dict(path=str(folder), image_size=8, batch_size=2, num_workers=0)
    options |= dict(cache_dir=str(folder.parent / "cache"), text=Words(20, 4))
    return PicturePairs(**options | fields)


def edit(before, after, prompt="red"):
    return {"original_image": before, "edit_prompt": prompt, "edited_image": after}


@pytest.fixture
def folder(tmp_path):
    """Four pictures, two of them larger, and one that is none."""
    folder = tmp_path / "data"
    write_pictures(folder, a=8, b=8, c=12, d=12)
    (folder / "bad.png").write_text("no picture")
    return folder


ROWS = [{"file_name": f"{name}.png", "text": f"{name} red, house"} for name in "dcba"]
ROWS.append({"file_name": "bad.png", "text": "nothing"})


@pytest.mark.parametrize("file", ["metadata.jsonl", "captions.csv", "captions.csv:text"])
@pytest.mark.parametrize("keeps_pixels", [True, False])
def test_each_picture_has_the_caption_of_its_line(folder, file, keeps_pixels):
    write_table(folder / file.partition(":")[0], ROWS)
    config = captioned(folder, file, keeps_pixels=keeps_pixels)
    data = config.load()
    assert data.texts.captions == tuple(f"{name} red, house" for name in "abcd")
    batch = data.batch(0, 0)
    assert {name: (v.shape[1:], v.dtype) for name, v in batch.items()} == {
        name: (one.shape, one.dtype) for name, one in config.spec.items()
    }
    first = data.rows(np.array([2]))
    np.testing.assert_array_equal(first["text"], data.texts.reader(["c red, house"])["text"])


def test_a_zip_and_its_folder_are_the_same_data(folder):
    write_table(folder / "metadata.jsonl", ROWS)
    archive = folder.parent / "data.zip"
    with zipfile.ZipFile(archive, "w") as packed:
        for path in folder.iterdir():
            packed.write(path, path.name)
    assert captioned(folder).load().checksum() == captioned(archive).load().checksum()


def test_other_captions_are_other_data(folder):
    write_table(folder / "metadata.jsonl", ROWS)
    before = captioned(folder).load().checksum()
    write_table(folder / "metadata.jsonl", [row | {"text": "blue house"} for row in ROWS])
    assert captioned(folder).load().checksum() != before


def test_a_pair_is_its_two_pictures_and_its_instruction(folder):
    rows = [edit("a.png", "b.png", "make it red"), edit("./d.png", "c.png", "blue")]
    write_table(folder / "metadata.jsonl", rows)
    config = pairs(folder)
    data = config.load()
    batch = data.rows(np.array([0, 1]))
    assert {name: (v.shape[1:], v.dtype) for name, v in batch.items()} == {
        name: (one.shape, one.dtype) for name, one in config.spec.items()
    }
    fit = Fit(8, 8, 3)
    for name, pictures in {"condition": "ad", "image": "bc"}.items():
        expected = [fit((folder / f"{one}.png").read_bytes(), one) for one in pictures]
        np.testing.assert_array_equal(to_pixels(batch[name]), expected)
    assert data.texts.captions == ("make it red", "blue")


def test_pairs_that_cannot_be_read_or_differ_in_size_are_skipped_and_named(folder, capsys):
    rows = [edit("a.png", "b.png"), edit("a.png", "bad.png"), edit("b.png", "c.png")]
    write_table(folder / "metadata.jsonl", rows)
    assert len(pairs(folder).load()) == 1
    said = capsys.readouterr().err
    assert "2 of 3 pairs" in said and "bad.png" in said
    assert "b.png is 8 x 8, but c.png is 12 x 12 pixels" in said
    with pytest.raises(ValueError, match="2 of 3 pairs cannot be read"):
        pairs(folder, on_error="stop").load()


@pytest.mark.parametrize(
    ("make", "rows", "says"),
    [
        (captioned, None, "holds no metadata.jsonl"),
        (captioned, ROWS[1:], "has no text for 1 of 5 pictures, such as 'd.png'"),
        (captioned, [*ROWS, {"file_name": "e.png", "text": "e"}], "names 1 pictures that are not"),
        (captioned, [{"file_name": "a.png", "caption": "a"}], "none of its columns"),
        (captioned, [{"file_name": "a.png", "text": 3}], "3 in column text is no text"),
        (captioned, [{"file_name": "a.png"}], "none of its columns"),
        (pairs, None, "holds no metadata.jsonl"),
        (pairs, [edit("a.png", "e.png")], "such as 'e.png'"),
        (pairs, [{"original_image": "a.png"}], "is edit_prompt or"),
        (pairs, [], "none of its columns"),
    ],
)
def test_a_table_that_does_not_fit_is_named(folder, make, rows, says):
    if rows is not None:
        write_table(folder / "metadata.jsonl", rows)
    with pytest.raises(ValueError, match=says):
        make(folder).load()


def test_a_damaged_table_is_one_line(folder):
    (folder / "metadata.jsonl").write_text('{"file_name": "a.png", "te')
    with pytest.raises(ValueError, match=r"metadata.jsonl cannot be read as a table") as error:
        captioned(folder).load()
    assert "\n" not in str(error.value)


def test_pairs_need_a_path():
    with pytest.raises(ValueError, match="path is empty"):
        PicturePairs().load()
    with pytest.raises(ValueError, match=r"use 1 \(grey\) or 3 \(RGB\)"):
        PicturePairs(channels=4)
