"""Laws of the sources of pictures: order, labels, and what they take for a picture."""

import io
import json
import os
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from diffusion.data.fit import Fit
from diffusion.data.sources import open_source
from diffusion.data.sources.labels import classes_of

PIXELS = np.random.default_rng(0).integers(0, 256, (6, 5, 4, 3), np.uint8)
NAMES = ["cat/2.png", "cat/10.png", "dog/1.png", "dog/b.png", "eel/1.png", "eel/ü.png"]
IN_ORDER = sorted(range(6), key=lambda i: NAMES[i].encode())
"""The pictures in the order of their paths' bytes: cat/10 comes before cat/2."""


def png(pixels):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "png")
    return file.getvalue()


CONTENTS = dict(zip(NAMES, map(png, PIXELS), strict=True))


def write_folder(path):
    for name in reversed(NAMES):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(CONTENTS[name])
    return str(path)


def write_zip(path, names=NAMES):
    with zipfile.ZipFile(path, "w") as archive:
        for name in reversed(names):
            archive.writestr(name, CONTENTS[name])
    return str(path)


def add(archive, name, content):
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def write_shards(folder):
    """Three shards of two pictures."""
    folder.mkdir(exist_ok=True)
    for shard in range(3):
        with tarfile.open(folder / f"s-{shard:02d}.tar", "w") as archive:
            for i in IN_ORDER[2 * shard : 2 * shard + 2]:
                kind, _, stem = NAMES[i].removesuffix(".png").partition("/")
                add(archive, f"{kind}/{stem}.png", CONTENTS[NAMES[i]])
                add(archive, f"{kind}/{stem}.cls", kind.encode())
                add(archive, f"{kind}/{stem}.json", json.dumps({"breed": kind}).encode())
    return str(folder)


def write_npz(path):
    kinds = np.array([NAMES[i].partition("/")[0] for i in IN_ORDER])
    np.savez(path, arr_0=PIXELS[IN_ORDER], labels=kinds)
    return str(path)


def pixels_of(source):
    fit = Fit(5, 4, 3)
    return np.stack([fit(source.read(i), name) for i, name in enumerate(source.names)])


@pytest.mark.parametrize(
    "write, field",
    [
        (lambda at: write_folder(at / "folder"), "folders"),
        (lambda at: write_zip(at / "a.zip"), "folders"),
        (lambda at: write_shards(at / "shards"), "cls"),
        (lambda at: write_shards(at / "shards"), "json:breed"),
        (lambda at: write_shards(at / "shards") + "/s-{00..02}.tar", "cls"),
        (lambda at: write_npz(at / "a.npz"), "labels"),
    ],
    ids=["folder", "zip", "shards", "shards' json", "shards by number", "npz"],
)
def test_all_sources_give_the_same_pictures_and_classes_in_the_same_order(tmp_path, write, field):
    source = open_source(write(tmp_path))
    np.testing.assert_array_equal(pixels_of(source), PIXELS[IN_ORDER])
    labels = source.labels(field)
    assert labels.names == ("cat", "dog", "eel")
    assert labels.classes.tolist() == [0, 0, 1, 1, 2, 2]
    assert len(set(source.names)) == 6


def test_one_tar_and_one_npy_are_sources_too(tmp_path):
    write_shards(tmp_path / "shards")
    source = open_source(str(tmp_path / "shards" / "s-01.tar"))
    np.testing.assert_array_equal(pixels_of(source), PIXELS[IN_ORDER[2:4]])
    np.save(tmp_path / "grey.npy", PIXELS[..., 0])
    grey = open_source(str(tmp_path / "grey.npy"))
    np.testing.assert_array_equal(Fit(5, 4, 1)(grey.read(3), "x")[..., 0], PIXELS[3, ..., 0])


def test_hidden_files_and_files_of_labels_are_no_pictures(tmp_path):
    path = write_folder(tmp_path / "a")
    for name in (".DS_Store", "cat/.x.png", "labels.csv", "dataset.json", "cat/metadata.jsonl"):
        (tmp_path / "a" / name).write_bytes(b"x")
    assert len(open_source(path).names) == 6
    with zipfile.ZipFile(tmp_path / "b.zip", "w") as archive:
        for name in (".x.png", "__MACOSX/cat/1.png", "labels.csv", "cat/1.png"):
            archive.writestr(name, b"x")
    assert open_source(str(tmp_path / "b.zip")).names == ("cat/1.png",)


def test_links_are_followed_once(tmp_path):
    path = write_folder(tmp_path / "a")
    (tmp_path / "a" / "cat" / "again").symlink_to(tmp_path / "a")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "far.png").write_bytes(CONTENTS["cat/2.png"])
    (tmp_path / "a" / "far").symlink_to(tmp_path / "b")
    assert open_source(path).names == (*[NAMES[i] for i in IN_ORDER], "far/far.png")


def test_what_is_no_file_is_refused_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "self.png").symlink_to("self.png")
    (tmp_path / "nowhere.png").symlink_to("nothing")
    source = open_source(str(tmp_path))
    assert source.names == ("nowhere.png", "pipe.png", "self.png")
    for index in range(3):
        with pytest.raises((OSError, ValueError)):
            source.read(index)


def test_a_name_may_be_no_text(tmp_path):
    name = os.fsdecode(b"\xff\xfe.png")
    (tmp_path / name).write_bytes(CONTENTS["cat/2.png"])
    source = open_source(str(tmp_path))
    assert source.names == (name,)
    np.testing.assert_array_equal(pixels_of(source)[0], PIXELS[0])


@pytest.mark.parametrize("change", ["add", "remove", "rename", "replace"])
def test_the_fingerprint_changes_with_the_pictures(tmp_path, change):
    path = write_folder(tmp_path)
    before = open_source(path).fingerprint
    assert open_source(path).fingerprint == before
    file = tmp_path / "cat" / "2.png"
    if change == "add":
        (tmp_path / "z.png").write_bytes(b"")
    elif change == "remove":
        file.unlink()
    elif change == "rename":
        file.rename(tmp_path / "cat" / "3.png")
    else:
        file.write_bytes(CONTENTS["dog/1.png"] + b" ")
    assert open_source(path).fingerprint != before


TABLES = {
    "labels.csv": "file_name,label,breed\n"
    + "".join(f"{n},{i},b{i % 2}\n" for i, n in enumerate(NAMES)),
    "metadata.jsonl": "".join(
        json.dumps({"file_name": n, "label": i, "breed": f"b{i % 2}"}) + "\n"
        for i, n in enumerate(NAMES)
    ),
    "dataset.json": json.dumps({"labels": [[n, i] for i, n in enumerate(NAMES)]}),
}


@pytest.mark.parametrize(
    "write", [lambda at: write_folder(at / "a"), lambda at: write_zip(at / "a.zip")]
)
@pytest.mark.parametrize("file", TABLES)
def test_a_table_names_the_class_of_each_picture(tmp_path, write, file):
    path = write(tmp_path)
    if path.endswith(".zip"):
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(file, TABLES[file])
    else:
        (tmp_path / "a" / file).write_text(TABLES[file], encoding="utf-8-sig")
    source = open_source(path)
    assert source.labels(file).classes.tolist() == IN_ORDER
    assert source.labels(file).names == tuple("012345")
    if file != "dataset.json":
        labels = source.labels(f"{file}:breed")
        assert labels.names == ("b0", "b1")
        assert labels.classes.tolist() == [i % 2 for i in IN_ORDER]


@pytest.mark.parametrize(
    "file, content, says",
    [
        ("labels.csv", "", "it has no rows"),
        ("labels.csv", "a,b\n1,2\n", "none of its columns a, b is file_name"),
        ("labels.csv", "file_name,kind\nx,2\n", "no column 'label'.* FILE:COLUMN .*kind"),
        ("labels.csv", "file_name,label\ncat/2.png,1\n", "no label for 5 of 6 .*'cat/10.png'"),
        ("labels.csv", "file_name,label\ncat/2.png\n", "is no label"),
        ("labels.jsonl", "{", "cannot be read as a table"),
        ("labels.jsonl", "[1]", "cannot be read as a table"),
        ("labels.jsonl", '{"file_name": "x", "label": 0.5}', "0.5 is no label"),
        ("dataset.json", '{"labels": null}', "its labels are null"),
        ("dataset.json", "{}", "cannot be read as a table"),
    ],
)
def test_a_table_that_does_not_fit_is_refused(tmp_path, file, content, says):
    path = write_folder(tmp_path)
    (tmp_path / file).write_text(content)
    with pytest.raises(ValueError, match=says):
        open_source(path).labels(file)


def test_whole_numbers_are_the_classes_and_words_are_sorted():
    assert classes_of(["3", "0", "3"], "x").classes.tolist() == [3, 0, 3]
    assert classes_of([3, 0], "x").names == ("0", "1", "2", "3")
    assert classes_of(["b", "1", "a"], "x").names == ("1", "a", "b")
    with pytest.raises(ValueError, match="label 123456789 is no class"):
        classes_of([123456789], "x")


@pytest.mark.parametrize(
    "name, says",
    [
        ("nothing", "does not exist"),
        ("empty", "holds no pictures"),
        ("a.txt", "no source of pictures"),
        ("bad.zip", "no ZIP archive"),
        ("bad.tar", "cannot be read as a tar"),
        ("packed.tar", "cannot be read as a tar without compression"),
        ("bad.npz", "cannot be read as arrays"),
        ("words.npy", "must be uint8"),
        ("five.npy", "5 channels"),
        ("other.npz", "none of images"),
        ("twice.zip", "'1.png' twice"),
        ("s-{0..3}.tar", "s-0.tar does not exist"),
    ],
)
def test_what_is_no_source_is_one_line(tmp_path, name, says):
    (tmp_path / "empty").mkdir()
    for file in ("a.txt", "bad.zip", "bad.tar", "bad.npz"):
        (tmp_path / file).write_bytes(b"no archive" * 100)
    with tarfile.open(tmp_path / "packed.tar", "w:gz") as archive:
        add(archive, "1.png", CONTENTS["cat/2.png"])
    np.save(tmp_path / "words.npy", np.array(["a"]))
    np.save(tmp_path / "five.npy", np.zeros((2, 4, 4, 5), np.uint8))
    np.savez(tmp_path / "other.npz", mu=np.zeros(3))
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.writestr("1.png", b"a")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("1.png", b"b")
    with pytest.raises((ValueError, OSError), match=says) as caught:
        open_source(str(tmp_path / name))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "field, says",
    [("kinds", "neither folders nor"), ("x.csv", "holds no x.csv"), ("folders", "z.png")],
)
def test_labels_that_are_not_there_are_named(tmp_path, field, says):
    path = write_folder(tmp_path)
    (tmp_path / "z.png").write_bytes(b"")
    with pytest.raises(ValueError, match=says):
        open_source(path).labels(field)


@pytest.mark.parametrize(
    "field, says", [("txt", "no file .txt"), ("json", "json:label"), ("json:x", "no 'x'")]
)
def test_labels_that_are_not_in_the_shards_are_named(tmp_path, field, says):
    with pytest.raises(ValueError, match=says):
        open_source(write_shards(tmp_path)).labels(field)
