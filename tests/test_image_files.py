"""Image files of every mode are read as what a viewer shows; a mask by one threshold."""

import numpy as np
import pytest
from PIL import Image

from diffusion.data import images
from diffusion.pixels import to_pixels

RAMP = np.arange(64, dtype=np.uint8).reshape(8, 8) * 4
RGB = np.stack([RAMP, RAMP[::-1], RAMP.T], axis=-1)
MASK = np.zeros((8, 8), np.uint8)
MASK[4:, 2:] = 1


def saved(path, array_or_image, **options):
    image = array_or_image
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(path, **options)
    return path


def pixels(path, channels):
    return to_pixels(images.read(path, channels))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("extension", ["png", "tif"])
def test_sixteen_bits_lose_their_lower_eight(tmp_path, extension, channels):
    deep = np.arange(256 * 256, dtype=np.uint16).reshape(256, 256)
    got = pixels(saved(tmp_path / f"a.{extension}", deep), channels)
    np.testing.assert_array_equal(got, np.repeat((deep >> 8)[..., None], channels, axis=-1))


def test_integers_of_32_bits_span_16(tmp_path):
    wide = (np.arange(64).reshape(8, 8) * 1040).astype(np.int32)
    np.testing.assert_array_equal(pixels(saved(tmp_path / "a.tif", wide), 1)[..., 0], wide >> 8)


def test_floats_span_0_to_1(tmp_path):
    got = pixels(saved(tmp_path / "a.tif", (RAMP / 255).astype(np.float32)), 1)
    np.testing.assert_array_equal(got[..., 0], RAMP)


@pytest.mark.parametrize(
    "values",
    [np.float32([[1.5]]), np.float32([[-0.1]]), np.float32([[np.nan]]), np.int32([[65536]])],
)
def test_values_out_of_range_are_refused(tmp_path, values):
    with pytest.raises(ValueError, match=r"must lie in 0 \.\. (1|65535); save it with 8 bits"):
        images.read(saved(tmp_path / "a.tif", values), 1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_of_png_gives_the_same_grey(tmp_path, mode):
    flat = Image.fromarray(np.where(RAMP > 100, 255, 0).astype(np.uint8))
    got = pixels(saved(tmp_path / "a.png", flat.convert(mode)), 1)
    np.testing.assert_array_equal(got[..., 0], np.asarray(flat))


@pytest.mark.parametrize("mode", ["RGB", "CMYK", "YCbCr"])
def test_colours_of_other_spaces_are_turned_into_rgb(tmp_path, mode):
    got = pixels(saved(tmp_path / "a.tif", Image.fromarray(RGB).convert(mode)), 3)
    np.testing.assert_allclose(got.astype(int), RGB, atol=3)  # YCbCr: blue is Y + 1.77 Cb


def test_lab_is_refused(tmp_path):
    with pytest.raises(ValueError, match="LAB"):
        images.read(saved(tmp_path / "a.tif", Image.new("LAB", (2, 2))), 3)


@pytest.mark.parametrize("extension", ["png", "jpg", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_upright(tmp_path, extension, orientation):
    # a photograph of a bright first row, as a camera turned in eight ways would store it
    upright = np.zeros((16, 8), np.uint8)
    upright[:8, :4] = 255
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: upright.T[::-1],
        7: upright[::-1, ::-1].T,
        8: upright.T[:, ::-1],
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"a.{extension}"
    saved(
        path,
        np.ascontiguousarray(stored),
        exif=exif,
        **({"quality": 100} if "j" in extension else {}),
    )
    got = pixels(path, 1)[..., 0]
    assert got.shape == upright.shape
    np.testing.assert_array_equal(got > 127, upright > 127)


def test_what_is_transparent_is_white(tmp_path):
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0, :, 0], rgba[0, :, 3] = 200, [255, 0, 102]
    got = pixels(saved(tmp_path / "a.png", rgba), 3)
    # 102 / 255 = 0.4: 0.4 * 200 + 0.6 * 255 = 233, 0.6 * 255 = 153
    np.testing.assert_array_equal(got, [[[200, 0, 0], [255, 255, 255], [233, 153, 153]]])


def test_every_opacity_is_rounded_to_the_nearest_value(tmp_path):
    grey, alpha = np.meshgrid(np.arange(256), np.arange(256))
    rgba = np.stack([grey, grey, grey, alpha], -1).astype(np.uint8)
    over_white = grey * (alpha / 255) + 255 * (1 - alpha / 255)  # never halfway: 255 is odd
    got = pixels(saved(tmp_path / "a.png", rgba), 1)[..., 0]
    np.testing.assert_array_equal(got, np.round(over_white))


@pytest.mark.parametrize(
    "array", [RAMP, RAMP.astype(np.uint16) * 256, Image.fromarray(RAMP).convert("P")]
)
def test_the_invisible_value_of_a_png_is_white(tmp_path, array):
    at = 4 * 256 if getattr(array, "dtype", None) == np.uint16 else 4
    path = saved(tmp_path / "a.png", array, transparency=at)
    assert pixels(path, 1)[0, :3, 0].tolist() == [0, 255, 8]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_a_mask_of_0_and_1_is_white_at_1(tmp_path, dtype):
    path = saved(tmp_path / "m.tif", MASK.astype(dtype))
    np.testing.assert_array_equal(images.read_mask(path), MASK == 1)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_a_mask_of_0_and_255_is_the_same_in_every_mode(tmp_path, mode):
    path = saved(tmp_path / "m.png", Image.fromarray(MASK * 255).convert(mode))
    np.testing.assert_array_equal(images.read_mask(path), MASK == 1)


def test_a_mask_is_white_from_128_on(tmp_path):
    path = saved(tmp_path / "m.png", np.array([[0, 127, 128, 255]], np.uint8))
    assert images.read_mask(path).tolist() == [[False, False, True, True]]


@pytest.mark.parametrize("mode", ["LA", "RGBA"])
def test_a_mask_is_not_white_where_it_is_transparent(tmp_path, mode):
    mask = Image.new("L", (8, 8), 255)
    mask = mask.convert(mode)
    mask.putalpha(Image.fromarray(MASK * 255))
    np.testing.assert_array_equal(images.read_mask(saved(tmp_path / "m.png", mask)), MASK == 1)


def test_white_that_is_nearly_transparent_is_no_mask_of_0_and_1(tmp_path):
    mask = Image.new("LA", (8, 8), (255, 1))
    with pytest.raises(ValueError, match="largest value is 1 of 255"):
        images.read_mask(saved(tmp_path / "m.png", mask))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.zeros((2, 2), np.uint8), "largest value is 0"),
        (np.full((2, 2), 127, np.uint8), "largest value is 127"),
        (np.full((2, 2), 255, np.uint8), "white everywhere"),
        (np.ones((2, 2), np.uint8), "white everywhere"),
        (np.full((2, 2, 4), [255, 255, 255, 0], np.uint8), "largest value is 0"),
    ],
)
def test_a_mask_of_one_value_is_refused(tmp_path, values, says):
    with pytest.raises(ValueError, match=says):
        images.read_mask(saved(tmp_path / "m.png", values))


def test_a_damaged_file_is_named(tmp_path):
    path = saved(tmp_path / "a.png", np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    for size in (20, 60, 1000):
        (tmp_path / "b.png").write_bytes(path.read_bytes()[:size])
        with pytest.raises(ValueError, match=r"b\.png"):
            images.read(tmp_path / "b.png", 1)
