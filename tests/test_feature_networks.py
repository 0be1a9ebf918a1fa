"""Laws of all networks of features."""

import jax
import numpy as np
import pytest
import safetensors.numpy
from from_torch import seeded

from commands import feature_networks
from diffusion.metrics.clip_image import clip_image
from diffusion.metrics.dinov2 import dinov2
from diffusion.metrics.efficientnet_lite import efficientnet_lite0
from diffusion.metrics.lpips import lpips

CLIP = {"patch": 8, "image_size": 56, "projection": 48}
NETWORKS = {
    "dinov2": (dinov2, seeded.drawn(seeded.dinov2(128, 2))),
    "clip": (clip_image, seeded.drawn(seeded.clip_image(128, 2, **CLIP))),
    "efficientnet": (efficientnet_lite0, seeded.drawn(seeded.efficientnet_lite0())),
    "lpips": (lpips, seeded.drawn(seeded.lpips("alex"))),
}
networks = pytest.mark.parametrize("name", NETWORKS)
# compiled anew for each test; the others are as deep, and compile faster
quick = pytest.mark.parametrize(
    "name",
    [n if n != "efficientnet" else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS],
)


def inputs(name, seed=0):
    pixels = seeded.images(6, 33, 33, seed=seed)
    if name != "lpips":
        return (pixels[:3],)
    images = pixels.astype(np.float32) / np.float32(127.5) - 1
    return images[:3], images[3:]


@quick
def test_half_precision_weights_are_computed_with_in_float32(name):
    network, params = NETWORKS[name]
    half = {name: array.astype(np.float16) for name, array in params.items()}
    rounded = {name: array.astype(np.float32) for name, array in half.items()}
    found = network(half, *inputs(name))
    assert found.dtype == np.float32
    # the conversion is compiled into the sums, which are then ordered otherwise
    np.testing.assert_allclose(found, network(rounded, *inputs(name)), rtol=1e-4, atol=1e-5)


@networks
def test_permuting_the_batch_permutes_the_features(name):
    network, params = NETWORKS[name]
    found = network(params, *inputs(name))
    permuted = network(params, *(x[[2, 0, 1]] for x in inputs(name)))
    np.testing.assert_allclose(permuted, found[np.array([2, 0, 1])], rtol=1e-4, atol=1e-5)


@networks
def test_a_network_is_compiled_once(name):
    network, params = NETWORKS[name]
    network(params, *inputs(name))
    before = network._cache_size()
    network(params, *inputs(name, seed=1))
    assert network._cache_size() == before


@quick
def test_features_are_the_same_under_x64(name):
    network, params = NETWORKS[name]
    found = network(params, *inputs(name))
    with jax.enable_x64(True):
        wide = network(params, *inputs(name))
    assert wide.dtype == np.float32
    np.testing.assert_allclose(wide, found, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "says"), [("dinov2", "DINOv2"), ("clip", "CLIP"), ("efficientnet", "EffNetLite0")]
)
def test_the_command_tells_a_network_by_its_file_and_takes_grey_images(tmp_path, name, says):
    network, params = NETWORKS[name]
    path = tmp_path / "weights.safetensors"
    safetensors.numpy.save_file(params, str(path))
    found = feature_networks.read(str(path))
    assert found.name == says and "sha256" in found.protocol
    grey = inputs(name)[0][..., :1]
    features, logits = found.function(found.params, grey)
    assert (logits is None) == (name != "efficientnet")
    offset = {"position_offset": 0.1} if name == "dinov2" else {}
    np.testing.assert_array_equal(features, network(params, np.repeat(grey, 3, -1), **offset))
