"""Laws of pictures of one's own: their pixels, what is skipped, and the cache."""

import io
import json
import os
import resource
import signal
import warnings

import jax
import numpy as np
import pytest
from PIL import Image

import train
from commands import pipeline
from commands.class_labels import class_labels
from diffusion.data import Pictures
from diffusion.data.fit import Fit
from diffusion.run.feed import prefetch


def content(image, kind="png", **options):
    file = io.BytesIO()
    (image if isinstance(image, Image.Image) else Image.fromarray(image)).save(
        file, kind, **options
    )
    return file.getvalue()


def noise(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


def test_a_pixel_is_the_mean_of_the_area_that_it_covers():
    image = noise(12, 12, 3)
    means = image.reshape(4, 3, 4, 3, 3).mean((1, 3))
    np.testing.assert_allclose(
        Fit(4, 4, 3)(content(image), "x"), means, atol=1.01
    )  # rounded once an axis
    # two and a half pixels a side: the half counts half
    weights = np.zeros((4, 10))
    for i in range(4):
        weights[i] = (
            np.clip(
                np.minimum(np.arange(10) + 1, 2.5 * i + 2.5) - np.maximum(np.arange(10), 2.5 * i),
                0,
                1,
            )
            / 2.5
        )
    grey = noise(10, 10)
    expected = weights @ grey @ weights.T
    np.testing.assert_allclose(Fit(4, 4, 1)(content(grey), "x")[..., 0], expected, atol=0.5001)


@pytest.mark.parametrize("size", [(8, 12), (12, 8)])
def test_the_middle_is_kept_of_a_picture_of_another_shape(size):
    image = noise(*size, 3)
    middle = image[:, 2:10] if size[1] > 8 else image[2:10]
    np.testing.assert_array_equal(Fit(8, 8, 3)(content(image), "x"), middle)


def test_a_small_picture_is_enlarged_smoothly():
    ramp = np.tile(np.arange(0, 200, 25, dtype=np.uint8), (8, 1))
    large = Fit(16, 16, 1)(content(ramp), "x")[8, :, 0].astype(int)
    assert (np.diff(large) > 0).all()


def test_a_picture_of_the_right_size_keeps_every_pixel():
    image = noise(7, 9, 3)
    np.testing.assert_array_equal(Fit(7, 9, 3)(content(image), "x"), image)


def test_a_camera_that_was_turned_gives_an_upright_picture():
    image = noise(8, 8, 3)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter, to be turned back clockwise
    turned = content(np.rot90(image), exif=exif)
    np.testing.assert_array_equal(Fit(8, 8, 3)(turned, "x"), image)


@pytest.mark.parametrize(
    "image, channels, expected",
    [
        (Image.new("RGBA", (2, 2), (10, 20, 30, 0)), 3, (7, 7, 7)),
        (Image.new("RGBA", (2, 2), (10, 20, 30, 0)), 4, (10, 20, 30, 0)),
        (Image.new("RGB", (2, 2), (10, 20, 30)), 4, (10, 20, 30, 255)),
        (Image.new("LA", (2, 2), (100, 255)), 3, (100, 100, 100)),
        (Image.new("I;16", (2, 2), 0x8101), 1, (0x81,)),
        (Image.new("1", (2, 2), 1), 3, (255, 255, 255)),
        (Image.new("P", (2, 2), 3), 3, "palette"),
        (Image.new("RGB", (2, 2), (255, 0, 0)), 1, (76,)),  # ITU-R 601: 0.299
    ],
    ids=[
        "over the background",
        "with alpha",
        "opaque",
        "grey alpha",
        "16 bits",
        "1 bit",
        "palette",
        "grey",
    ],
)
def test_every_mode_becomes_the_recipes_channels(image, channels, expected):
    if expected == "palette":
        image.putpalette([0] * 9 + [1, 2, 3])
        expected = (1, 2, 3)
    pixels = Fit(2, 2, channels, background=7)(content(image), "x")
    np.testing.assert_array_equal(pixels, np.tile(np.uint8(expected), (2, 2, 1)))


def test_what_is_transparent_has_no_colour_when_it_is_resized():
    image = np.zeros((4, 4, 4), np.uint8)
    image[..., 0], image[:, 2:] = 200, 0
    image[:, :2, 3] = 255  # red on the left; on the right nothing, of any colour
    image[:, 2:, 1] = 255
    assert Fit(1, 1, 4)(content(image), "x").tolist() == [[[200, 0, 0, 128]]]


GOOD = content(noise(4, 4, 3))
JPEG = content(noise(64, 64, 3), "jpeg")
BOMB = content(Image.new("1", (20_000, 10_000)))
DIRT = {
    "cut.jpg": JPEG[: len(JPEG) // 2],
    "empty.png": b"",
    "note.txt": b"these are my pictures",
    "page.jpg": b"<html>404</html>",
    "bomb.png": BOMB,
    "damaged.png": GOOD[:40] + b"\0\0\0\0" + GOOD[44:],
}


def write(folder, *, dirt=()):
    folder.mkdir()
    for i in range(8):
        image = noise(9 + i, 20 - i, 3) if i % 2 else noise(6, 6, 3)
        (folder / f"{i}.png").write_bytes(content(image))
    (folder / "no_suffix").write_bytes(GOOD)
    (folder / "wrong.jpg").write_bytes(GOOD)  # a PNG
    for name in dirt:
        (folder / name).write_bytes(DIRT[name])
    return folder


def pictures(tmp_path, **fields):
    fields = dict(path=str(tmp_path / "a"), image_size=4, batch_size=4) | fields
    return Pictures(**fields, cache_dir=str(tmp_path / "cache"), num_workers=0)


@pytest.mark.parametrize("name", DIRT)
def test_a_picture_that_cannot_be_read_is_skipped_and_named_or_refused(tmp_path, name, capsys):
    write(tmp_path / "a", dirt=[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(pictures(tmp_path).load()) == 10
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Skipped: 1 of 11 pictures cannot be read: ") and name in line
    for _ in range(2):  # where it is known from the cache too
        with pytest.raises(ValueError, match=rf"1 of 11 .*{name}"):
            pictures(tmp_path, on_error="stop").load()


def test_ten_are_named_and_the_others_counted(tmp_path, capsys):
    write(tmp_path / "a")
    for i in range(13):
        (tmp_path / "a" / f"x{i:02d}").write_bytes(b"")
    pictures(tmp_path).load()
    said = capsys.readouterr().err
    assert said.startswith("Skipped: 13 of 23") and said.count("is empty") == 10
    assert said.endswith("x09 is empty; and 3 more.\n")


def test_a_name_cannot_write_to_the_terminal(tmp_path, capsys):
    write(tmp_path / "a")
    for name in ("a\nb", "\x1b[31m", os.fsdecode(b"\xff"), "\u732b"):
        (tmp_path / "a" / name).write_bytes(b"")
    pictures(tmp_path).load()
    (line,) = capsys.readouterr().err.splitlines()
    for shown in ("a\\nb is", "\\x1b[31m is", "\\udcff is", "\u732b is"):
        assert shown in line


def test_where_no_picture_can_be_read_there_is_no_dataset(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "x").write_bytes(b"")
    with pytest.raises(ValueError, match="1 of 1 pictures cannot be read: x is empty"):
        pictures(tmp_path).load()


def test_labels_stay_with_their_pictures_where_some_are_skipped(tmp_path, capsys):
    for i, kind in enumerate(("cat", "dog")):
        (tmp_path / "a" / kind).mkdir(parents=True)
        (tmp_path / "a" / kind / "0.png").write_bytes(b"")
        for j in range(3):
            grey = np.full((4, 4), 10 * i + j, np.uint8)
            (tmp_path / "a" / kind / f"{j + 1}.png").write_bytes(content(grey))
    data = pictures(tmp_path, labels="folders", channels=1)
    assert data.num_classes == 2 and data.class_names == ("cat", "dog")
    loaded = data.load()
    assert loaded.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert loaded.pixels[:, 0, 0, 0].tolist() == [0, 1, 2, 10, 11, 12]


def test_classes_that_have_changed_are_refused(tmp_path):
    for kind in ("cat", "dog"):
        (tmp_path / "a" / kind).mkdir(parents=True)
        (tmp_path / "a" / kind / "0.png").write_bytes(GOOD)
    data = pictures(tmp_path, labels="folders")
    (tmp_path / "a" / "ape").mkdir()
    (tmp_path / "a" / "ape" / "0.png").write_bytes(GOOD)
    with pytest.raises(ValueError, match=r"3 classes \(ape, cat, dog, ...\)"):
        data.load()


def test_pictures_are_read_once(tmp_path, monkeypatch):
    write(tmp_path / "a")
    first = pictures(tmp_path).load()
    monkeypatch.setattr(Fit, "__call__", None)  # cannot be called any more
    np.testing.assert_array_equal(pictures(tmp_path).load().pixels, first.pixels)
    with pytest.raises(TypeError):
        pictures(tmp_path, image_size=5).load()  # but anew for another size
    (tmp_path / "a" / "new.png").write_bytes(GOOD)
    with pytest.raises(TypeError):
        pictures(tmp_path).load()  # and where a picture was added


@pytest.mark.parametrize("kept_parts", [0, 1, 2])
@pytest.mark.parametrize("last_line", ["", '{"done": 6, "rej'])
def test_a_killed_preparation_goes_on_to_the_same_bytes(
    tmp_path, monkeypatch, kept_parts, last_line
):
    monkeypatch.setattr("diffusion.data.preparation.PART", 3)
    write(tmp_path / "a", dirt=["empty.png", "note.txt"])
    whole = pictures(tmp_path).load()
    (folder,) = (tmp_path / "cache").iterdir()
    (folder / "index.json").unlink()
    lines = (folder / "progress.jsonl").read_text().splitlines(keepends=True)
    (folder / "progress.jsonl").write_text("".join(lines[:kept_parts]) + last_line)
    read = []
    fit = Fit.__call__
    monkeypatch.setattr(Fit, "__call__", lambda *args: (read.append(args[2]), fit(*args))[1])
    again = pictures(tmp_path).load()
    np.testing.assert_array_equal(again.pixels, whole.pixels)
    assert again.checksum() == whole.checksum()
    assert len(read) + 3 * kept_parts >= 12 - 1 and "0.png" not in read[3 * (kept_parts == 0) :]


@pytest.mark.parametrize("file, size", [("pixels.bin", 100), ("pixels.bin", 0), ("index.json", 0)])
def test_a_cache_that_is_not_whole_is_made_again(tmp_path, file, size):
    write(tmp_path / "a")
    whole = pictures(tmp_path).load()
    (folder,) = (tmp_path / "cache").iterdir()
    os.truncate(folder / file, size)
    again = pictures(tmp_path).load()
    np.testing.assert_array_equal(again.pixels, whole.pixels)
    assert again.checksum() == whole.checksum()


def test_a_full_disk_is_one_line_that_says_what_to_do(tmp_path):
    write(tmp_path / "a")
    os.makedirs(tmp_path / "cache")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that writing is an error
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limit[1]))
        with pytest.raises(OSError, match="room for 480 bytes .* data.keeps_pixels=false"):
            pictures(tmp_path).load()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
        signal.signal(signal.SIGXFSZ, handler)
    assert len(pictures(tmp_path).load()) == 10


def test_kept_pixels_and_pictures_that_are_read_anew_give_the_same_batches(tmp_path, capsys):
    write(tmp_path / "a", dirt=["empty.png"])
    kept, anew = pictures(tmp_path).load(), pictures(tmp_path, keeps_pixels=False).load()
    assert anew.resident() is None and len(anew) == len(kept) == 10
    assert anew.spec == kept.spec == pictures(tmp_path).spec
    assert anew.checksum() == kept.checksum()
    for step in (0, 5, 2):
        np.testing.assert_array_equal(anew.batch(1, step)["image"], kept.batch(1, step)["image"])
        rows = anew.batch(1, step, slice(1, 3))["image"]
        np.testing.assert_array_equal(rows, kept.batch(1, step)["image"][1:3])


def test_large_sets_are_read_where_they_lie(tmp_path, monkeypatch):
    write(tmp_path / "a")
    small = pictures(tmp_path).load()
    monkeypatch.setattr("diffusion.data.preparation.IN_MEMORY_BYTES", 10)
    large = pictures(tmp_path).load()
    assert isinstance(large.pixels, np.memmap)
    np.testing.assert_array_equal(large.batch(0, 3)["image"], small.batch(0, 3)["image"])


@pytest.mark.slow
def test_any_number_of_processes_gives_the_same_bytes(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("diffusion.data.preparation.IN_PROCESS", 0)
    monkeypatch.setattr("diffusion.data.preparation.PART", 3)
    write(tmp_path / "a", dirt=["empty.png"])
    mesh = jax.make_mesh((1, 1), ("data", "fsdp"), devices=jax.devices()[:1])
    found = {}
    for workers in (0, 1, 3):
        fields = dict(path=str(tmp_path / "a"), image_size=4, batch_size=4, num_workers=workers)
        kept = Pictures(**fields, cache_dir=str(tmp_path / f"kept{workers}")).load()
        anew = Pictures(**fields, cache_dir=str(tmp_path / "anew"), keeps_pixels=False).load()
        batches = prefetch(anew, mesh, 0, 2)
        found[workers] = [kept.pixels, *(np.asarray(next(batches)["image"]) for _ in range(3))]
        batches.close()
        for step, batch in enumerate(found[workers][1:], start=2):
            np.testing.assert_array_equal(batch, kept.batch(0, step)["image"])
    for workers in (1, 3):
        for one, other in zip(found[0], found[workers], strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("is_gone, why", [(True, "No such file"), (False, "is empty")])
def test_a_picture_that_is_lost_in_training_is_named(tmp_path, is_gone, why):
    write(tmp_path / "a")
    anew = pictures(tmp_path, keeps_pixels=False).load()
    (tmp_path / "a" / "0.png").write_bytes(b"")
    if is_gone:
        (tmp_path / "a" / "0.png").unlink()
    with pytest.raises(OSError, match=f"'0.png' could be read before .*{why}.*resumes") as caught:
        for step in range(3):  # an epoch
            anew.batch(0, step)
    assert caught.value.filename is None  # of an error with one, the commands print no more


@pytest.mark.slow
def test_an_error_in_a_process_reaches_the_training(tmp_path):
    write(tmp_path / "a")
    fields = dict(path=str(tmp_path / "a"), image_size=4, batch_size=4, num_workers=1)
    anew = Pictures(**fields, cache_dir=str(tmp_path / "cache"), keeps_pixels=False).load()
    for file in (tmp_path / "a").iterdir():
        file.write_bytes(b"")
    mesh = jax.make_mesh((1, 1), ("data", "fsdp"), devices=jax.devices()[:1])
    batches = prefetch(anew, mesh, 0, 0)
    with pytest.raises(OSError, match="is empty"):
        next(batches)


@pytest.mark.parametrize(
    "fields, says",
    [
        (dict(image_size=0), "image_size=0"),
        (dict(image_size=(4, 4, 4)), r"image_size=\(4, 4, 4\)"),
        (dict(channels=2), "channels=2"),
        (dict(background=256), "background=256"),
        (dict(on_error="ignore"), "on_error='ignore'"),
        (dict(num_workers=-1), "num_workers=-1"),
        (dict(class_names=("a",)), "labels is none"),
    ],
)
def test_a_value_that_makes_no_sense_is_refused(fields, says):
    with pytest.raises(ValueError, match=says):
        Pictures(path="x", **fields)


def test_the_command_trains_on_a_folder_and_samples_by_class(tmp_path, capsys):
    for kind in ("cat", "dog"):
        (tmp_path / "a" / kind).mkdir(parents=True)
        for i in range(4):
            (tmp_path / "a" / kind / f"{i}.png").write_bytes(content(noise(9, 9, 3)))
    network = "--model.channels 8 --model.channel-mult 1 --model.attention-resolutions , "
    network += "--model.middle.exists false "
    run = "--run.num-steps 2 --run.num-samples 1 --sampling.num-steps 2 --model.num-groups 4 "
    data = "--data.labels folders --data.image-size 8 --data.batch-size 4 --model.num-res-blocks 1 "
    paths = ["--data.path", str(tmp_path / "a"), "--data.cache-dir", str(tmp_path / "cache")]
    argv = ["folder", *(network + run + data).split(), *paths, "--run-dir", str(tmp_path / "run")]
    train.main(argv)
    (tmp_path / "a" / "cat" / "4.png").write_bytes(content(noise(9, 9, 3)))
    with pytest.raises(SystemExit, match="2"):  # the order of its batches would be another
        train.main([*argv, "--run.num-steps", "3"])
    (line,) = capsys.readouterr().err.splitlines()
    assert "trained on other data (8 images, checksum " in line
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["data"]["class_names"] == ["cat", "dog"]
    trained = pipeline.read(tmp_path / "run")
    assert (
        class_labels(trained, "dog", 2).tolist() == class_labels(trained, "1", 2).tolist() == [1, 1]
    )
    assert os.listdir(tmp_path / "run" / "samples") == ["2.png"]
