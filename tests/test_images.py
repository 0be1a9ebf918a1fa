"""Laws between [-1, 1] and uint8."""

import numpy as np
import pytest
from PIL import Image, ImageSequence

from diffusion.data import images
from diffusion.pixels import from_pixels, to_pixels


def test_every_pixel_value_comes_back():
    pixels = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_pixels(from_pixels(pixels)), pixels)


def test_pixels_span_minus_one_to_one():
    np.testing.assert_array_equal(from_pixels(np.array([0, 255], np.uint8)), [-1.0, 1.0])


def test_values_outside_are_clipped_and_those_between_rounded():
    # 127.5 * (1 + 0.002) = 127.755 -> 128, never truncated to 127
    got = to_pixels(np.array([-3.0, 3.0, 0.002], np.float32))
    np.testing.assert_array_equal(got, [0, 255, 128])


def test_a_grid_reads_left_to_right_then_down():
    pixels = np.arange(6, dtype=np.uint8).reshape(6, 1, 1, 1)
    canvas = images.grid(pixels, columns=3, gap=1)
    assert canvas.shape == (5, 7, 1)
    np.testing.assert_array_equal(canvas[1::2, 1::2, 0], [[0, 1, 2], [3, 4, 5]])
    assert (canvas[::2] == 255).all()


@pytest.mark.parametrize(
    ("shape", "zoom"), [((8, 8), 80), ((9, 30), 21), ((30, 9), 21), ((640, 2), 1), ((641, 2), 1)]
)
def test_the_longer_side_is_enlarged_to_at_most_640_pixels(shape, zoom):
    assert images.zoom_for(np.zeros((*shape, 1), np.uint8)) == zoom


def test_an_animation_lasts_its_seconds_and_its_last_frame_as_long_again(tmp_path):
    frames = [np.full((4, 4, 1), value, np.uint8) for value in (0, 100, 200)]
    images.save_gif(tmp_path / "a.gif", frames, seconds=0.6)
    with Image.open(tmp_path / "a.gif") as gif:
        shown = [frame.info["duration"] for frame in ImageSequence.Iterator(gif)]
    assert shown == [200, 200, 600]


def test_png_holds_the_pixels_grey_and_colour(tmp_path):
    for channels in (1, 3):
        pixels = np.random.default_rng(0).integers(0, 256, (4, 5, channels), np.uint8)
        images.save_png(tmp_path / "a.png", pixels)
        with Image.open(tmp_path / "a.png") as image:
            np.testing.assert_array_equal(np.asarray(image).reshape(pixels.shape), pixels)
