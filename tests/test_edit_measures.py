"""Laws of the measures of edits; scikit-image's values are of from_scikit_image/make.py."""

from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from from_torch import seeded

from diffusion import metrics
from diffusion.pixels import from_pixels

GOLDEN = np.load(Path(__file__).parent / "from_scikit_image" / "similarity.npz")
A, B = (from_pixels(GOLDEN[name]) for name in "ab")
RNG = np.random.default_rng(0)
KEYS = RNG.normal(size=(2, 5, 3))
EDITED = np.zeros((3, 19, 23), bool)
EDITED[:, 4:9, 3:15] = True


@pytest.mark.parametrize("name", ["mse", "psnr", "ssim"])
def test_a_measure_of_images_equals_scikit_images(name):
    # images in [-1, 1] are float32, which rounds differences of 0.01 to 1e-5 of them
    np.testing.assert_allclose(getattr(metrics, name)(A, B), GOLDEN[name], rtol=1e-6)


def test_equal_images_and_keys_have_no_distance():
    np.testing.assert_array_equal(metrics.mse(A, A), 0.0)
    np.testing.assert_array_equal(metrics.psnr(A, A), np.inf)
    np.testing.assert_allclose(metrics.ssim(A, A), 1.0, rtol=1e-12)
    np.testing.assert_array_equal(metrics.structure_distance(KEYS, KEYS), 0.0)


def test_the_edited_part_does_not_matter_and_the_mean_runs_over_all_pixels():
    changed = np.where(EDITED[..., None], np.float32(0.5), B)
    kept = [metrics.without_edit(image, EDITED) for image in (A, B, changed)]
    for measure in (metrics.mse, metrics.psnr, metrics.ssim):
        np.testing.assert_array_equal(measure(kept[0], kept[1]), measure(kept[0], kept[2]))
    squares = np.square(A / 2 - B / 2).mean(-1)
    expected = [(squares[i] * ~EDITED[i]).sum() / (19 * 23) for i in range(3)]
    np.testing.assert_allclose(metrics.mse(kept[0], kept[1]), expected, rtol=1e-5)


def test_the_edited_part_is_black_in_the_range_of_pie_bench():
    """There, images in [0, 1] are multiplied by the mask."""
    kept = metrics.without_edit(A, EDITED)
    np.testing.assert_allclose((kept + 1) / 2, (A + 1) / 2 * ~EDITED[..., None], atol=1e-7)


def test_structure_is_that_of_cosines_of_a_pairs_tokens():
    """Two tokens at an angle: S is [[1, cos], [cos, 1]], so half its squared change counts."""
    angles = np.array([0.3, 1.1])
    keys = np.stack([np.ones((2, 2)) * [1.0, 0.0], np.stack([np.cos(angles), np.sin(angles)], 1)])
    keys = keys.swapaxes(0, 1)  # (pair, token, channel)
    expected = (np.cos(0.3) - np.cos(1.1)) ** 2 / 2
    np.testing.assert_allclose(metrics.structure_distance(keys[:1], keys[1:]), [expected])


def test_structure_sees_neither_the_keys_lengths_nor_a_rotation():
    lengths = RNG.uniform(0.5, 2.0, (2, 5, 1))
    rotation, _ = np.linalg.qr(RNG.normal(size=(3, 3)))
    np.testing.assert_allclose(
        metrics.structure_distance(KEYS, lengths * KEYS @ rotation), 0.0, atol=1e-30
    )


def test_structure_of_an_image_changes_less_by_light_than_by_another_image():
    params = seeded.drawn(seeded.dinov2(128, 2))
    one, other = seeded.images(2, 32, 32)
    darker = (one * 0.9).astype(np.uint8)
    of = [metrics.dinov2.keys(params, image[None]) for image in (one, darker, other)]
    light, another = (metrics.structure_distance(of[0], of[i])[0] for i in (1, 2))
    assert 0 < light < another


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: metrics.mse(A, (B > 0).astype(int)), "must be float"),
        (lambda: metrics.psnr(A[:1], B), r"are \(1, 19, 23, 3\) and \(3, 19, 23, 3\)"),
        (lambda: metrics.ssim(A[:, :10], B[:, :10]), "10x23 are smaller than the window, 11x11"),
        (lambda: metrics.without_edit(A, EDITED[:1]), r"the masks are \(1, 19, 23\)"),
        (lambda: metrics.structure_distance(KEYS, 0 * KEYS), "length_of_a_key=0.0"),
    ],
)
def test_what_makes_no_sense_is_refused(call, says, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of tests
    with pytest.raises(ValueError, match=says):
        call()
