"""Laws of a folder of samples: one set, whole, readable by others' tools."""

import numpy as np
import pytest
from PIL import Image

from diffusion.data import sample_folder


def pixels(n, channels=1):
    return np.full((n, 2, 2, channels), n % 256, np.uint8)


def labels(n):
    return np.zeros(n, np.int32)


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def save(folder, n, **options):
    sample_folder.claim(folder)
    sample_folder.save(folder, pixels(n), labels(n), **options)


def test_the_images_lie_in_a_folder_of_their_own(tmp_path):
    save(tmp_path, 3, frames=[pixels(1)[0], pixels(2)[0]])
    assert names(tmp_path) == ["denoising.gif", "grid.png", "png", "samples.npz"]
    assert names(tmp_path / "png") == ["00000.png", "00001.png", "00002.png"]


def test_a_set_replaces_the_one_before_with_its_animation(tmp_path):
    save(tmp_path, 5, frames=[pixels(1)[0], pixels(2)[0]])
    save(tmp_path, 2)
    assert names(tmp_path) == ["grid.png", "png", "samples.npz"]
    assert names(tmp_path / "png") == ["00000.png", "00001.png"]
    with Image.open(tmp_path / "png" / "00000.png") as image:
        assert image.getpixel((0, 0)) == 2


def test_what_killed_or_large_calls_left_is_removed(tmp_path):
    (tmp_path / "png").mkdir()
    for name in ("00009.png", "100000.png", "1234567.png", ".00003.png"):
        (tmp_path / "png" / name).touch()
    (tmp_path / ".new" / "png").mkdir(parents=True)
    (tmp_path / ".new" / "png" / "00007.png").touch()
    save(tmp_path, 4)
    assert names(tmp_path) == ["grid.png", "png", "samples.npz"]
    assert names(tmp_path / "png") == [f"0000{i}.png" for i in range(4)]


def test_a_call_that_fails_leaves_the_set_before(tmp_path):
    save(tmp_path, 3)
    with pytest.raises(TypeError):
        save(tmp_path, 2, frames=[pixels(1, channels=5)[0]])  # fails last, after the images
    assert len(names(tmp_path / "png")) == 3
    with np.load(tmp_path / "samples.npz") as arrays:
        assert len(arrays["arr_0"]) == 3


def test_a_set_replaces_one_of_an_earlier_version_whose_images_lay_beside_the_grid(tmp_path):
    for name in ("samples.npz", "grid.png", "00000.png", "00007.png", "100000.png", "1.png"):
        (tmp_path / name).touch()
    save(tmp_path, 2)
    assert names(tmp_path) == ["1.png", "grid.png", "png", "samples.npz"]


def test_the_grid_shows_the_first_400(tmp_path):
    save(tmp_path, 401)
    with Image.open(tmp_path / "grid.png") as grid:
        assert grid.size == (610, 610)  # 20 rows of 2 pixels and a gap, ten times enlarged


@pytest.mark.parametrize("name", ["cat.png", "2026-07-31.png", "0001.png", "00001.jpg"])
def test_files_of_others_are_not_removed(tmp_path, name):
    (tmp_path / "png").mkdir()
    (tmp_path / "png" / name).touch()
    with pytest.raises(ValueError, match=f"holds {name}, which is no sample"):
        sample_folder.claim(tmp_path)


@pytest.mark.parametrize("beside", [[], ["grid.png"], ["samples.npz"]])
def test_numbered_images_of_others_are_not_removed(tmp_path, beside):
    for name in ("00012.png", *beside):
        (tmp_path / name).touch()
    with pytest.raises(ValueError, match="holds 00012.png, but not samples.npz and grid.png"):
        sample_folder.claim(tmp_path)


def test_the_images_are_stored_once_under_the_name_that_adms_evaluator_asks_for(tmp_path):
    save(tmp_path, 3)
    with np.load(tmp_path / "samples.npz", allow_pickle=False) as arrays:
        assert sorted(arrays) == ["arr_0", "labels"]
        np.testing.assert_array_equal(arrays["arr_0"], pixels(3))
        assert arrays["labels"].shape == (3,)


@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 2, 4), (2, 2, 5), (4, 1), (2, 2, 2, 1)])
def test_images_that_are_neither_grey_nor_rgb_are_arrays_alone(tmp_path, shape):
    save(tmp_path, 3)
    sample_folder.save(tmp_path, np.zeros((2, *shape), np.uint8), labels(2))
    assert names(tmp_path) == ["samples.npz"]
