"""Inception is torch-fidelity's, from the resizing to the FID of two folders of PNG images."""

import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest

from diffusion import metrics
from diffusion.data import images
from diffusion.metrics import FeatureStatistics
from diffusion.metrics.inception import NETWORK, AveragePool, as_input, resize
from diffusion.pixels import to_pixels

FOLDER = Path(__file__).parent / "from_torch_fidelity"
sys.path.insert(0, str(FOLDER))
from inception_weights import drawn_weight  # noqa: E402

BLOCKS = np.load(FOLDER / "blocks.npz")
"""By make_metrics.py, which lies beside it, from torch-fidelity 0.4.0 in float32."""

IMAGES = np.load(FOLDER / "images.npz")


def drawn(prefix=""):
    shapes = metrics.inception_shapes()
    return {name: drawn_weight(name, shapes[name]) for name in shapes if name.startswith(prefix)}


@pytest.mark.parametrize("height", [5, 23])
def test_resizing_is_tensorflow_1s(height):
    """Upwards and downwards, which has no antialiasing there."""
    found = resize(jnp.asarray(BLOCKS[f"image_{height}"]), 11, 13)
    # two interpolations of values up to 255 in float32
    np.testing.assert_allclose(found, BLOCKS[f"resized_{height}"], rtol=0, atol=1e-4)


def test_resizing_to_the_same_size_changes_nothing():
    image = jnp.asarray(BLOCKS["image_5"])
    np.testing.assert_array_equal(resize(image, *image.shape[1:3]), image)


@pytest.mark.parametrize("height", [5, 23])
def test_average_pools_do_not_count_their_padding(height):
    found = AveragePool()({}, "", jnp.asarray(BLOCKS[f"image_{height}"]))
    np.testing.assert_allclose(found, BLOCKS[f"pooled_{height}"], rtol=1e-6)


@pytest.mark.parametrize(
    ("name", "channels"),
    [
        ("Mixed_5b", 192),
        ("Mixed_6a", 288),
        ("Mixed_6b", 768),
        ("Mixed_7a", 768),
        ("Mixed_7b", 1280),
        ("Mixed_7c", 2048),
    ],
)
def test_each_kind_of_block_is_torch_fidelitys(name, channels):
    block = next(step for step in NETWORK if getattr(step, "name", "") == f"{name}.")
    params = drawn(block.name)
    x = np.random.RandomState(3).uniform(0, 1, (1, 4, 3, channels)).astype(np.float32)
    found = jax.jit(lambda params, x: block(params, "", x))(params, x)
    np.testing.assert_allclose(found[..., ::8], BLOCKS[name], rtol=1e-4, atol=1e-5)


def test_the_arrays_are_those_of_the_published_file():
    """Of 566 there 94 count batches; torchvision's, of 1,000 classes, has 23,834,568 parameters."""
    shapes = metrics.inception_shapes()
    assert len(shapes) == 566 - 94
    sizes = {name: np.prod(shape) for name, shape in shapes.items() if "running" not in name}
    assert sum(sizes.values()) == 23_834_568 + 8 * 2049


def test_what_is_missing_or_misshapen_is_named():
    params = {n: jax.ShapeDtypeStruct(s, np.float32) for n, s in metrics.inception_shapes().items()}
    metrics.check_inception(params)
    missing = {
        name: value for name, value in params.items() if name != "Mixed_5b.branch1x1.bn.bias"
    }
    with pytest.raises(ValueError, match="the weights lack Mixed_5b.branch1x1.bn.bias; "):
        metrics.check_inception(missing)
    torchvision = params | {"fc.weight": jax.ShapeDtypeStruct((1000, 2048), np.float32)}
    with pytest.raises(ValueError, match=r"fc.weight has the shape \(1000, 2048\) in place"):
        metrics.check_inception(torchvision)


def test_the_sizes_within_the_network_are_those_of_torch_fidelitys():
    params, x = metrics.inception_shapes(), jax.ShapeDtypeStruct((1, 299, 299, 3), np.float32)
    params = {name: jax.ShapeDtypeStruct(shape, np.float32) for name, shape in params.items()}
    sizes = []
    for step in NETWORK:
        x = jax.eval_shape(lambda params, x, step=step: step(params, "", x), params, x)
        sizes.append(x.shape[1])
    stem = [149, 147, 147, 73, 73, 71, 35]
    assert sizes == [*stem, 35, 35, 35, 17, 17, 17, 17, 17, 8, 8, 8]


@pytest.mark.parametrize(
    "pixels", [np.zeros((1, 8, 8, 3), np.float32), np.zeros((1, 8, 8, 2), np.uint8)]
)
def test_what_is_no_grey_or_rgb_pixels_is_refused(pixels, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of tests
    with pytest.raises(ValueError, match="must be uint8, 0 .. 255, grey"):
        as_input(pixels)


def test_grey_pixels_are_rgb_of_three_equal_channels():
    grey = np.random.RandomState(0).randint(0, 256, (2, 6, 5, 1)).astype(np.uint8)
    np.testing.assert_array_equal(as_input(grey), as_input(grey.repeat(3, axis=-1)))


def test_the_networks_input_lies_between_minus_1_and_1():
    pixels = np.array([[[[0, 128, 255]]]], np.uint8)
    found = as_input(pixels)
    assert found.shape == (1, 299, 299, 3)
    np.testing.assert_array_equal(found[0, 17, 5], [-1, 0, 127 / 128])


def read(folder):
    return np.stack([to_pixels(images.read(path, 3)) for path in sorted(folder.iterdir())])


@pytest.mark.slow
def test_folders_of_images_have_torch_fidelitys_numbers():
    params, inception = drawn(), jax.jit(metrics.inception)
    (generated, logits), (real, _) = (
        inception(params, read(FOLDER / name)) for name in ("generated", "real")
    )
    np.testing.assert_allclose(generated, IMAGES["features"], rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(logits[:, ::8], IMAGES["logits"], rtol=1e-4, atol=1e-3)
    fid = metrics.frechet_distance(*map(FeatureStatistics.of, (generated, real)))
    kid = metrics.kernel_inception_distance(generated, real, num_subsets=10, subset_size=8)
    score = metrics.inception_score(logits, num_splits=3)
    np.testing.assert_allclose(fid, IMAGES["fid"], rtol=1e-4)
    np.testing.assert_allclose(kid, IMAGES["kid"], rtol=1e-4)
    np.testing.assert_allclose(score, IMAGES["inception_score"], rtol=1e-4)
    shares = metrics.precision_recall(generated, real)
    np.testing.assert_allclose(shares, IMAGES["precision_recall"], rtol=1e-6)
