"""LPIPS is the package lpips' (from_torch/make_convolutional.py)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from from_torch import seeded

from diffusion.metrics.lpips import check, lpips

GOLDEN = np.load(seeded.FOLDER / "convolutional.npz")
PARAMS = {name: seeded.drawn(seeded.lpips(name)) for name in ("alex", "vgg")}
networks = pytest.mark.parametrize("name", ["alex", "vgg"])


def pair(size):
    a, b = GOLDEN[size].astype(np.float32) / np.float32(127.5) - 1
    return a[None], b[None]


@networks
@pytest.mark.parametrize("size", ["small", "wide"])  # 32x32, and 44x61: windows leave a rest
def test_distance_equals_the_packages(name, size):
    check(PARAMS[name])
    # a mean of squares of differences of float32 activations
    np.testing.assert_allclose(
        lpips(PARAMS[name], *pair(size)), GOLDEN[f"lpips_{name}_{size}"], rtol=2e-6
    )


@networks
def test_distance_is_symmetric_and_zero_for_equal_images(name):
    a, b = pair("small")
    both = lpips(PARAMS[name], np.concatenate([a, b]), np.concatenate([b, a]))
    np.testing.assert_allclose(both[0], both[1], rtol=1e-6)
    assert lpips(PARAMS[name], a, a)[0] == 0


def test_a_pair_does_not_depend_on_the_rest_of_its_batch():
    a, b = pair("small")
    batch = lpips(PARAMS["alex"], np.concatenate([a, a]), np.concatenate([a, b]))
    np.testing.assert_allclose(batch, [0, lpips(PARAMS["alex"], a, b)[0]], rtol=1e-6)


def test_gradient_is_finite_where_all_activations_are_zero():
    silent = {k: v * 0 if k == "features.0.weight" else v for k, v in PARAMS["alex"].items()}
    silent["features.0.bias"] = -np.ones(64, np.float32)
    a, b = (jnp.asarray(x) for x in pair("small"))
    for params in (silent, PARAMS["alex"]):
        gradient = jax.grad(lambda a, params=params: lpips(params, a, b).sum())(a)
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize(("name", "min_size"), [("alex", 31), ("vgg", 16)])
def test_images_that_vanish_in_the_pools_are_refused(name, min_size):
    a, b = pair("small")
    assert np.isfinite(lpips(PARAMS[name], a[:, :min_size, :min_size], b[:, :min_size, :min_size]))
    says = f"{min_size - 1}x32 vanish in the pools of .*; use {min_size}x{min_size} or larger"
    with pytest.raises(ValueError, match=says):
        lpips(PARAMS[name], a[:, : min_size - 1], b[:, : min_size - 1])


@pytest.mark.parametrize(
    ("network", "name", "shape", "says"),
    [
        ("vgg", "features.0.weight", (64, 3, 5, 5), r"\(64, 3, 3, 3\)"),
        ("vgg", "features.28.bias", None, "lack features.28.bias"),
        ("vgg", "lin4.model.1.weight", (1, 256, 1, 1), r"\(1, 512, 1, 1\)"),
        ("alex", "features.3.weight", (192, 64, 3, 3), r"\(192, 64, 5, 5\)"),
        ("alex", "lin0.model.1.weight", None, "lack lin0.model.1.weight"),
    ],
)
def test_another_file_is_refused_by_its_first_wrong_array(network, name, shape, says):
    params = {key: array for key, array in PARAMS[network].items() if key != name}
    if shape is not None:
        params[name] = np.zeros(shape, np.float32)
    with pytest.raises(ValueError, match=says) as error:
        check(params)
    assert "\n" not in str(error.value)


def test_weights_of_two_networks_are_refused():
    mixed = PARAMS["vgg"] | {k: v for k, v in PARAMS["alex"].items() if k.startswith("lin")}
    with pytest.raises(ValueError, match="lin1.model.1.weight has the shape"):
        check(mixed)
