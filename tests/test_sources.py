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
                add(
                    archive,
                    f"{kind}/{stem}.json",
                    json.dumps({"breed": kind, "list": [1]}).encode(),
                )
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


def test_damage_in_the_middle_of_a_zip_changes_its_fingerprint(tmp_path):
    path = write_zip(tmp_path / "a.zip")
    before = open_source(path).fingerprint
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[60:70] = bytes(10)
    (tmp_path / "a.zip").write_bytes(content)
    assert open_source(path).fingerprint != before


@pytest.mark.parametrize("packing", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_file_of_a_zip_is_an_error_of_that_picture(tmp_path, packing):
    with zipfile.ZipFile(tmp_path / "a.zip", "w", packing) as archive:
        for name in "12":
            archive.writestr(name, PIXELS.tobytes() * 3)
    content = bytearray((tmp_path / "a.zip").read_bytes())
    content[45:95] = b"\xff" * 50
    (tmp_path / "a.zip").write_bytes(content)
    source = open_source(str(tmp_path / "a.zip"))
    with pytest.raises(ValueError, match="1 cannot be unpacked"):
        source.read(0)
    assert source.read(1) == PIXELS.tobytes() * 3


def test_damage_in_the_middle_of_a_tar_is_not_its_end(tmp_path):
    path = write_shards(tmp_path) + "/s-01.tar"
    assert len(open_source(path).names) == 2
    with open(path, "r+b") as file:
        file.seek(3 * 1024)  # the fourth header: each of these files takes a block, as its header
        file.write(b"\xff" * 512)
    with pytest.raises(ValueError, match="s-01.tar cannot be read .* damaged at byte 3,072"):
        open_source(path)


@pytest.mark.parametrize("kind", ["folder", "tar"])
def test_a_file_that_is_larger_than_any_picture_is_not_read(tmp_path, kind):
    with open(tmp_path / "1.png", "wb") as file:
        file.truncate(2**30 + 1)
    path = tmp_path
    if kind == "tar":
        info = tarfile.TarInfo("1.png")
        info.size = 2**30 + 1
        path = tmp_path / "a.tar"
        path.write_bytes(info.tobuf())
        os.truncate(path, 512 + 2**30 + 512)
    with pytest.raises(ValueError, match="has 1,073,741,825 bytes, more than any picture"):
        open_source(str(path)).read(0)


def test_a_folder_that_is_called_a_tar_is_a_folder(tmp_path):
    write_folder(tmp_path / "cats.tar")
    assert len(open_source(str(tmp_path)).names) == 6


@pytest.mark.parametrize(
    "names, classes",
    [
        (["pets/cat/1", "pets/dog/1"], ["cat", "dog"]),
        (["./cat/1", "./dog/a/1"], ["cat", "dog"]),
        (["pets/cat/a/1", "pets/cat/1"], ["cat"]),
        (["cat/1", "cat/2"], ["cat"]),
        (["a/b/cat/1", "a/b/dog/1"], ["cat", "dog"]),
    ],
)
def test_folders_that_all_pictures_share_are_no_class(tmp_path, names, classes):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        for name in names:
            archive.writestr(name, b"")
    assert list(open_source(str(tmp_path / "a.zip")).labels("folders").names) == classes


def test_names_in_a_table_may_begin_here_and_words_have_no_space_around_them(tmp_path):
    path = write_folder(tmp_path)
    lines = ["file_name, label", *(f"./{name}, {name[:3]} " for name in NAMES)]
    (tmp_path / "l.csv").write_text("\n".join(lines))
    assert open_source(path).labels("l.csv").names == ("cat", "dog", "eel")


def test_a_line_of_json_may_hold_the_other_ends_of_lines(tmp_path):
    path = write_folder(tmp_path)
    rows = [json.dumps({"file_name": n, "label": "a\u2028b"}, ensure_ascii=False) for n in NAMES]
    (tmp_path / "l.jsonl").write_text("\n".join(rows))
    assert open_source(path).labels("l.jsonl").names == ("a\u2028b",)


def test_words_in_an_array_may_be_bytes(tmp_path):
    np.savez(tmp_path / "a.npz", images=PIXELS[:2], kind=np.array([b"cat", b"dog"]))
    assert open_source(str(tmp_path / "a.npz")).labels("kind").names == ("cat", "dog")


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
        ("labels.csv", "file_name,label\na,1\na,2\n", "'a' has two labels, '1' and '2'"),
        ("labels.jsonl", "[" * 100_000, "RecursionError"),
        (
            "labels.jsonl",
            '{"file_name": "x", "label": 1}\n{"file_name": "y"}',
            "'y' has no 'label'",
        ),
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
    for label in (123456789, -1, int("9" * 100)):
        with pytest.raises(ValueError, match=f"label {str(label)[:20]}.* is no class"):
            classes_of([0, label], "x")
    assert classes_of([-1, "a"], "x").names == ("-1", "a")


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
        ("s-{0..99999999999}.tar", "s-0.tar does not exist"),
        ("s-{3..1}.tar", "3 is above 1"),
        ("s-{a..b}.tar", "two whole numbers"),
        ("thin.npy", r"uint8 \(2, 0, 4\)"),
        ("mixed", r"shards \(a.tar\) and pictures or folders \(1.png\)"),
        ("tfds:", "has no name"),
        ("hf:", "has no name"),
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
    np.save(tmp_path / "thin.npy", np.zeros((2, 0, 4), np.uint8))
    (tmp_path / "mixed").mkdir()
    for file in ("a.tar", "1.png"):
        (tmp_path / "mixed" / file).write_bytes(b"")
    np.savez(tmp_path / "other.npz", mu=np.zeros(3))
    with zipfile.ZipFile(tmp_path / "twice.zip", "w") as archive:
        archive.writestr("1.png", b"a")
        with pytest.warns(UserWarning, match="Duplicate"):
            archive.writestr("1.png", b"b")
    with pytest.raises((ValueError, OSError), match=says) as caught:
        open_source(name if name.endswith(":") else str(tmp_path / name))
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
    "field, says",
    [("txt", "no file .txt"), ("json", "json:label"), ("json:x", "no 'x'"), ("json:list", "word")],
)
def test_labels_that_are_not_in_the_shards_are_named(tmp_path, field, says):
    with pytest.raises(ValueError, match=says):
        open_source(write_shards(tmp_path)).labels(field)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_dataset_that_hugging_faces_library_saved_is_a_source(tmp_path):
    datasets = pytest.importorskip("datasets")  # a large package, which the set-up leaves out
    features = datasets.Features(
        image=datasets.Image(),
        label=datasets.ClassLabel(names=["cat", "dog", "eel"]),
        breed=datasets.Value("string"),
    )
    rows = {
        "image": [Image.fromarray(pixels) for pixels in PIXELS],
        "label": [2, 0, 1, 2, 0, 1],
        "breed": list("bababa"),
    }
    train = datasets.Dataset.from_dict(rows, features=features)
    datasets.DatasetDict(train=train, test=train.select([1, 2])).save_to_disk(str(tmp_path / "a"))
    source = open_source(f"hf:{tmp_path}/a")
    np.testing.assert_array_equal(pixels_of(source), PIXELS)
    assert source.labels("label").names == ("cat", "dog", "eel")
    assert source.labels("label").classes.tolist() == rows["label"]
    assert source.labels("breed").names == ("a", "b")
    np.testing.assert_array_equal(pixels_of(open_source(f"hf:{tmp_path}/a:test")), PIXELS[1:3])
    with pytest.raises(ValueError, match="no split valid"):
        open_source(f"hf:{tmp_path}/a:valid")
    with pytest.raises(ValueError, match="no such column, but image, label, breed"):
        source.labels("kind")
