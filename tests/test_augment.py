"""Laws of augmentation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion as dm
from diffusion.training.augment import SYM6, warp


def picture(size=32):
    """Smooth enough that a warp can be compared with the function itself; x to the right."""
    y, x = np.meshgrid(*[np.arange(size) - (size - 1) / 2] * 2, indexing="ij")
    return f(x, y)[..., None]


def f(x, y):
    return np.cos(0.25 * x + 0.4) * np.exp(-((y - 3) ** 2) / 80)


def test_the_filter_is_orthonormal_under_shifts_by_two():
    overlaps = [(SYM6[: len(SYM6) - 2 * m] * SYM6[2 * m :]).sum() for m in range(6)]
    np.testing.assert_allclose(overlaps, [1, 0, 0, 0, 0, 0], atol=1e-11)
    assert SYM6.sum() == pytest.approx(np.sqrt(2))


def test_the_identity_warp_returns_the_image():
    image = jax.random.normal(jax.random.key(0), (8, 10, 3))
    got = warp(image, jnp.eye(2), jnp.zeros(2))
    np.testing.assert_allclose(got, image, atol=1e-5)


@pytest.mark.parametrize(
    ("matrix", "shift"),
    [
        ([[1, 0], [0, 1]], [3, 0]),
        ([[1, 0], [0, 1]], [0.5, -2.25]),
        ([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]], [0, 0]),
        ([[1.3, 0], [0, 1.3]], [0, 0]),
        ([[1.2, 0.1], [0, 0.9]], [1, 2]),
    ],
)
def test_a_warp_moves_what_is_at_p_to_matrix_p_plus_shift(matrix, shift):
    image = jnp.asarray(picture(), jnp.float32)
    got = warp(image, jnp.asarray(matrix, jnp.float32), jnp.asarray(shift, jnp.float32))
    y, x = np.meshgrid(*[np.arange(32) - 15.5] * 2, indexing="ij")
    source = np.linalg.inv(matrix) @ (np.stack([x.ravel(), y.ravel()]) - np.array(shift)[:, None])
    inside = (np.abs(source) < 12).all(0)  # beyond the border the image is mirrored
    difference = np.asarray(got)[..., 0].ravel() - f(*source)
    assert np.abs(difference[inside]).max() < 0.02  # bilinear between half pixels


@pytest.mark.parametrize("size", [(8, 8, 1), pytest.param((16, 16, 3), marks=pytest.mark.slow)])
def test_labels_are_zero_where_nothing_was_changed(size):
    image = jax.random.normal(jax.random.key(0), (64, *size))
    batch = dm.NonLeaky(0.0)(jax.random.key(1), {"image": image, "label": jnp.arange(64)})
    label = np.asarray(batch["augment_label"])
    assert label.shape == (64, 9) and not label[:, 1:].any()
    assert 10 < label[:, 0].sum() < 54  # mirrored with probability 1/2
    for changed, original, told in zip(batch["image"], image, label, strict=True):
        np.testing.assert_array_equal(changed, original[:, ::-1] if told[0] else original)
    np.testing.assert_array_equal(batch["label"], jnp.arange(64))


def told(label):
    """The matrix, and the shift as a fraction of the image, that a label describes."""
    scale, turn = 2 ** (0.2 * label[2]), np.arctan2(label[4], label[3] + 1)
    # along an axis to the right, longer or shorter: the label is the axis times the stretch
    stretch = np.copysign(0.2 * np.hypot(*label[5:7]), label[5])
    axis = np.arctan(label[6] / label[5])
    along = rotation(axis) @ np.diag([2**stretch, 2**-stretch]) @ rotation(-axis)
    return scale * along @ rotation(turn), 0.125 * label[7:]


def rotation(angle):
    return np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])


def test_the_label_alone_determines_the_augmentation():
    image = jnp.asarray(picture(), jnp.float32)
    batch = dm.NonLeaky(1.0)(jax.random.key(0), {"image": jnp.stack([image] * 16)})
    for changed, label in zip(batch["image"], np.asarray(batch["augment_label"]), strict=True):
        mirrored = image[:: -1 if label[1] else 1, :: -1 if label[0] else 1]
        matrix, shift = told(label)
        expected = warp(mirrored, jnp.float32(matrix), jnp.float32(32 * shift))
        np.testing.assert_allclose(changed, expected, atol=1e-3)  # rounding, times the slope


def test_every_transformation_happens_at_its_rate_and_is_in_the_label():
    image = jnp.zeros((4000, 2, 2, 1))
    label = np.asarray(dm.NonLeaky(0.2)(jax.random.key(0), {"image": image})["augment_label"])
    changes = np.stack(
        [label[:, 0], label[:, 1], label[:, 2], label[:, 4], label[:, 5], label[:, 7], label[:, 8]]
    )
    # five standard errors of sqrt(0.25 / 4000) = 0.008
    rates = (changes != 0).mean(1)
    np.testing.assert_allclose(rates, [0.5, 0.1, 0.2, 0.2, 0.2, 0.2, 0.2], atol=0.04)
    assert np.abs(label[:, 3] - (np.sqrt(1 - label[:, 4] ** 2) - 1)).min() < 1e-6


def test_the_key_decides():
    image = jax.random.normal(jax.random.key(0), (16, 8, 8, 3))
    change = jax.jit(lambda key: dm.NonLeaky(0.9)(key, {"image": image})["image"])
    np.testing.assert_array_equal(change(jax.random.key(1)), change(jax.random.key(1)))
    assert jnp.abs(change(jax.random.key(1)) - change(jax.random.key(2))).max() > 0.1


def test_flip_mirrors_about_half_of_the_images():
    image = jax.random.normal(jax.random.key(0), (200, 4, 4, 1))
    got = dm.Flip()(jax.random.key(0), {"image": image})["image"]
    mirrored = [bool((a == b[:, ::-1]).all()) for a, b in zip(got, image, strict=True)]
    same = [bool((a == b).all()) for a, b in zip(got, image, strict=True)]
    assert all(m or s for m, s in zip(mirrored, same, strict=True)) and 60 < sum(mirrored) < 140


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_an_impossible_rate_is_refused(rate):
    with pytest.raises(ValueError, match="rate"):
        dm.NonLeaky(rate)
