"""The networks that diffusers does not have, against `reference`, written out from the papers."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import reference
from conftest import drawn
from flax import nnx

import unet_flax
from unet_flax import EDM2UNet, Fourier, UNet, presets
from unet_flax.edm2 import mp_concat, mp_silu, mp_sum, unit
from unet_flax.resample import BOX, Double, Halve

TAPS = [BOX, (1.0, 3.0, 3.0, 1.0), (1.0, 2.0, 5.0, 5.0, 2.0, 1.0)]
SMALL = dict(
    image_size=8, channels=8, channel_mult=(1, 2), num_res_blocks=2, attention_resolutions=(4,)
)


@pytest.fixture(scope="module")
def x():
    return np.random.default_rng(0).standard_normal((3, 8, 8, 3)).astype(np.float32)


C_NOISE = np.array([-1.0, 0.2, 1.1], np.float32)
LABEL = np.array([0, 2, 4])


@pytest.mark.parametrize("taps", TAPS)
@pytest.mark.parametrize("ours", [Halve, Double])
def test_filters_are_upfirdn(x, taps, ours):
    theirs = reference.fir_down if ours is Halve else reference.fir_up
    np.testing.assert_allclose(ours(taps)(jnp.asarray(x)), theirs(x, taps), atol=1e-5)


def wide(params):
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)


def drawn_network(kind, config):
    network, params = unet_flax.functional(
        drawn(nnx.eval_shape(lambda: kind(config, rngs=nnx.Rngs(0))))
    )
    return jax.jit(network), params


@pytest.mark.parametrize("preset", ["edm_ncsnpp_cifar10", "edm_ddpmpp_cifar10"])
def test_ncsnpp_and_ddpmpp_are_the_papers_blocks_in_the_papers_order(x, preset):
    published = getattr(presets, preset)(num_classes=5)
    config = dataclasses.replace(
        published, num_groups=4, noise_features=Fourier(scale=1.0, channels=8), **SMALL
    )
    network, params = drawn_network(UNet, config)
    augment_label = np.random.default_rng(1).standard_normal((3, 9)).astype(np.float32)
    expected = reference.NCSNpp(
        wide(params),
        taps=config.resampling.taps,
        has_pyramid=preset == "edm_ncsnpp_cifar10",
        num_groups=4,
        eps=1e-6,
    )(x, C_NOISE, LABEL, augment_label)
    got = network(params, x, C_NOISE, label=LABEL, augment_label=augment_label)
    assert expected.std() > 0.1
    # float32 keeps 6e-8 of each sum; some 30 layers of some 100 terms leave it about 1e-5
    np.testing.assert_allclose(got, expected, atol=1e-4)


@pytest.fixture(scope="module")
def edm2():
    config = dataclasses.replace(presets.edm2_s_imagenet64(num_classes=5), head_dim=4, **SMALL)
    return drawn_network(EDM2UNet, config)


def test_edm2_is_the_papers_blocks_in_the_papers_order(x, edm2):
    network, params = edm2
    params = params | {"out_gain": jnp.ones(())}
    expected = reference.EDM2(wide(params), head_dim=4)(x, C_NOISE, LABEL)
    assert expected.std() > 0.1
    np.testing.assert_allclose(network(params, x, C_NOISE, label=LABEL), expected, atol=1e-4)


def test_forced_weight_normalisation_changes_no_output(x, edm2):
    network, params = edm2
    params = params | {"out_gain": jnp.ones(())}
    y = network(params, x, C_NOISE, label=LABEL)
    forced = network(unet_flax.unit_kernels(params), x, C_NOISE, label=LABEL)
    # the guard against zero vectors takes 1e-4 from vectors of size about 0.1: 1e-3 a layer
    np.testing.assert_allclose(forced, y, atol=2e-2 * np.abs(y).max())


def test_a_magnitude_preserving_sum_and_concatenation_are_the_papers(x):
    a, b = jnp.asarray(x), jnp.asarray(x[::-1, ..., :2])
    for t in (0.0, 0.3, 0.5, 1.0):
        np.testing.assert_allclose(mp_concat(a, b, t), reference.mp_cat(a, b, t), atol=1e-6)
        c = a[::-1]
        np.testing.assert_allclose(mp_sum(a, c, t), reference.mp_sum(a, c, t), atol=1e-6)


@pytest.mark.parametrize("t", [0.0, 0.3, 0.5, 1.0])
def test_a_concatenations_parts_count_by_their_balance_not_by_their_number(t):
    y = mp_concat(jnp.ones((1, 4)), jnp.ones((1, 12)), t)[0]
    a, b = jnp.square(y[:4]).sum() / 16, jnp.square(y[4:]).sum() / 16
    total = (1 - t) ** 2 + t**2
    np.testing.assert_allclose([a, b], [(1 - t) ** 2 / total, t**2 / total], rtol=1e-5)


def test_the_magnitude_preserving_silu_keeps_unit_size():
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    weights /= weights.sum()  # the mean over a unit normal
    size = np.sqrt(weights @ np.square(mp_silu(jnp.asarray(nodes, jnp.float32))))
    np.testing.assert_allclose(size, 1.0, atol=1e-3)  # the paper rounds the constant to 0.596


def test_the_pixel_norm_brings_each_pixel_to_unit_size_whatever_it_had():
    x = np.random.default_rng(0).standard_normal((2, 4, 4, 8)).astype(np.float32)
    y = unit(jnp.asarray(x * np.logspace(0, 3, 4, dtype=np.float32)[:, None]))
    np.testing.assert_allclose(jnp.square(y).mean(-1), 1.0, atol=1e-3)
    np.testing.assert_allclose(y, reference.normalized(x, 3), atol=1e-3)
