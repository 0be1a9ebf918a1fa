"""Laws of the likelihood: both ways equal the closed form for Gaussian data."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from oracles import correlated

import diffusion as dm
from diffusion.sampling.likelihood import BIN, log_bin

MEAN, STD = 0.1, 0.25
KEY = jax.random.key(0)


def oracle(x_t, sigma):
    """The exact denoiser of data N(MEAN, STD^2)."""
    sigma = jnp.broadcast_to(sigma, x_t.shape[:1])[:, None, None, None]
    return (STD**2 * x_t + sigma**2 * MEAN) / (STD**2 + sigma**2)


@pytest.fixture(scope="module")
def pixels():
    image = MEAN + STD * np.random.default_rng(0).standard_normal((64, 8, 8, 1))
    return np.clip(np.round((image + 1) * 127.5), 0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def exact_bits(pixels):
    """-log2 of the probability of each pixel's bin, mean over an image."""
    image = pixels / 127.5 - 1
    ends = scipy.stats.norm.cdf((image[..., None] + np.array([-0.5, 0.5]) * BIN - MEAN) / STD)
    return -np.log2(ends[..., 1] - ends[..., 0]).mean((1, 2, 3))


def test_density_equals_the_closed_form(pixels):
    image = pixels / np.float32(127.5) - 1
    log_p, calls = dm.log_density(oracle, jnp.asarray(image), KEY, tolerance=1e-5)
    exact = scipy.stats.norm.logpdf(image, MEAN, STD).sum((1, 2, 3))
    # a tolerance of 1e-5 a step, some twenty steps, 64 values
    np.testing.assert_allclose(log_p, exact, atol=0.05)
    assert 50 < calls < 500


def test_bits_per_dim_by_the_flow_equal_the_closed_form(pixels, exact_bits):
    bits = dm.bits_per_dim(oracle, jnp.asarray(pixels), KEY)
    # the dequantising noise, of 0.002 in values with slope 1 / STD: 0.01 / sqrt(64) bits
    np.testing.assert_allclose(bits, exact_bits, atol=0.01)
    assert float(bits.mean()) == pytest.approx(exact_bits.mean(), abs=0.002)


def test_the_variational_bound_falls_to_the_closed_form(pixels, exact_bits):
    gaps = []
    for num_steps in (100, 400, 1600):
        grid = dm.Exponential(sigma_min=0.01, sigma_max=40.0)(num_steps)
        bound = dm.variational_bound(oracle, jnp.asarray(pixels), grid, KEY)
        gaps.append(float(bound.total.mean()) - exact_bits.mean())
        assert float(bound.prior.mean()) < 1e-3
    # first order in the steps; a decoder's pixel scatters by one bit, 4,096 of them by 0.016
    assert gaps[0] / gaps[1] == pytest.approx(4, rel=0.5)
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] == pytest.approx(0, abs=0.05)


RHO = 0.6
EXACT = scipy.stats.multivariate_normal(cov=[[1.0, RHO], [RHO, 1.0]]).logpdf([0.5, -0.2])


def correlated_log_p(count, **options):
    x = jnp.broadcast_to(jnp.array([0.5, -0.2]), (count, 2))
    return np.asarray(dm.log_density(partial(correlated, rho=RHO), x, KEY, **options)[0])


def test_the_divergence_of_few_values_is_exact():
    np.testing.assert_allclose(correlated_log_p(50), EXACT, atol=2e-3)


def test_more_probes_scatter_less():
    spread = {n: correlated_log_p(1000, num_probes=n).std() for n in (1, 4, 16)}
    # the mean of n independent probes; a spread of 1,000 draws is known to 3 percent or so
    assert spread[1] / spread[4] == pytest.approx(2, rel=0.15)
    assert spread[4] / spread[16] == pytest.approx(2, rel=0.15)
    assert correlated_log_p(1000, num_probes=16).mean() == pytest.approx(EXACT, abs=0.03)


def test_bits_per_dim_take_probes_too():
    pixels = jnp.full((40, 1, 2, 1), 140, jnp.uint8)

    def denoise(x_t, sigma):
        return correlated(x_t.reshape(-1, 2), sigma, rho=RHO).reshape(x_t.shape)

    exact, several = (dm.bits_per_dim(denoise, pixels, KEY, num_probes=n) for n in (None, 3))
    assert exact.std() < 0.02 < several.std()  # what is left is the dequantising noise


def test_correlated_values_need_the_trace_of_the_whole_jacobian():
    rho = 0.6
    covariance = np.array([[1.0, rho], [rho, 1.0]])
    x = jnp.broadcast_to(jnp.array([0.5, -0.2]), (2000, 2))
    log_p, _ = dm.log_density(partial(correlated, rho=rho), x, KEY, num_probes=1)
    exact = scipy.stats.multivariate_normal(cov=covariance).logpdf([0.5, -0.2])
    # Hutchinson is right in the mean; its two values lie 2 * 0.7 apart: standard error 0.016
    assert float(log_p.mean()) == pytest.approx(exact, abs=0.06)


def test_a_pixels_bins_have_probability_one_together():
    values = jnp.arange(256) / 127.5 - 1
    for mean, std in ((0.0, 0.01), (0.3, 0.5), (-1.5, 0.1), (1.0, 0.001)):
        total = jnp.exp(log_bin(values, jnp.full(256, mean), jnp.float32(std))).sum()
        assert float(total) == pytest.approx(1.0, abs=1e-4)


def test_a_far_bin_has_a_finite_logarithm():
    far = log_bin(jnp.array([0.9, -1.0, 1.0]), jnp.array([-0.9, 1.0, -1.0]), jnp.float32(0.01))
    assert jnp.isfinite(far).all() and (far < -1000).all()


def test_with_a_key_for_each_image_the_others_do_not_matter(pixels):
    keys = jax.random.split(KEY, 6)
    grid = dm.Karras(sigma_min=0.01)(10)
    for bits in (
        lambda p, k: dm.bits_per_dim(oracle, p, k),
        lambda p, k: dm.variational_bound(oracle, p, grid, k).total,
    ):
        whole = bits(jnp.asarray(pixels[:6]), keys)
        np.testing.assert_allclose(bits(jnp.asarray(pixels[2:4]), keys[2:4]), whole[2:4], rtol=1e-4)


def test_float32_images_are_measured_in_float32_under_x64(pixels):
    grid = dm.Karras(sigma_min=0.01)(10)
    image = jnp.zeros((2, 4, 4, 1), jnp.float32)
    with jax.enable_x64(True):
        bound = jax.eval_shape(lambda p: dm.variational_bound(oracle, p, grid, KEY), pixels[:2])
        log_p, _ = jax.eval_shape(lambda x: dm.log_density(oracle, x, KEY), image)
    assert {leaf.dtype for leaf in [*bound, log_p]} == {jnp.dtype("float32")}


@pytest.mark.parametrize(
    "make",
    [
        lambda: dm.log_density(oracle, jnp.zeros((1, 2, 2, 1)), KEY, sigma_min=0.0),
        lambda: dm.log_density(oracle, jnp.zeros((1, 2, 2, 1)), KEY, tolerance=0.0),
        lambda: dm.log_density(oracle, jnp.zeros((1, 2, 2, 1)), KEY, num_probes=0),
        lambda: dm.variational_bound(
            oracle, jnp.zeros((1, 2, 2, 1), jnp.uint8), jnp.array([2.0, 1.0, 0.5]), KEY
        ),
        lambda: dm.variational_bound(
            oracle, jnp.zeros((1, 2, 2, 1), jnp.uint8), jnp.array([1.0, 2.0, 0.0]), KEY
        ),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(ValueError):
        make()
