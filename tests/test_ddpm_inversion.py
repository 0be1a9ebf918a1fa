"""Laws of edit-friendly inversion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import MEAN, STD, mixture, oracle

import diffusion as dm

KEY = jax.random.key(0)
POINTS = jnp.array([[-1.0, 0.4], [0.7, 0.9], [0.2, -0.3]])
SIGMAS = dm.Karras()(12)


@pytest.mark.parametrize("eta", [0.3, 1.0])
@pytest.mark.parametrize("skip", [0.0, 0.25, 0.6])
def test_the_same_denoiser_draws_the_image_again(eta, skip):
    x, sigmas, sampler = dm.ddpm_invert(mixture, POINTS, SIGMAS, KEY, eta=eta).begin(skip)
    found = sampler(mixture, x, sigmas, jax.random.key(1))
    # float32 rounds x of size 80 to 4e-6, and each step divides that
    np.testing.assert_allclose(found, POINTS, atol=2e-5)


def test_a_denoiser_of_shifted_data_shifts_the_image():
    """Both denoisers are linear, so what they have in common, the image's own part, stays."""
    shift = 0.7

    def shifted(x_t, sigma):
        return oracle(x_t - shift, sigma) + shift

    image = MEAN + STD * jax.random.normal(KEY, (200, 1))
    x, sigmas, sampler = dm.ddpm_invert(oracle, image, SIGMAS, KEY).begin()
    found = sampler(shifted, x, sigmas, KEY)
    # the start, at sigma = 80, holds (STD / 80)^2 of the image
    np.testing.assert_allclose(found, image + shift, atol=1e-3)


def test_more_skipped_steps_keep_more_of_the_image():
    def other(x_t, sigma):
        return oracle(x_t - 0.7, sigma) + 0.7

    image = jnp.zeros((50, 1))
    inversion = dm.ddpm_invert(oracle, image, SIGMAS, KEY)
    changes = []
    for skip in (0.0, 0.5, 0.75):
        x, sigmas, sampler = inversion.begin(skip)
        changes.append(float(jnp.abs(sampler(other, x, sigmas, KEY) - image).mean()))
    assert changes[0] > changes[1] > changes[2] > 0


def test_every_x_is_the_image_with_noise_of_its_own():
    image = jnp.zeros((4000, 1))
    inversion = dm.ddpm_invert(oracle, image, SIGMAS, KEY)
    eps = np.asarray(inversion.xs[:-1, :, 0] / SIGMAS[:-1, None])
    # of 4,000 draws: standard errors 0.011 and 0.016
    np.testing.assert_allclose(eps.std(1), 1.0, atol=0.06)
    assert np.abs(np.corrcoef(eps) - np.eye(len(eps))).max() < 0.08


def test_with_a_key_for_each_image_the_batch_does_not_matter():
    keys = jax.random.split(KEY, 3)
    together = dm.ddpm_invert(mixture, POINTS, SIGMAS, keys)
    alone = dm.ddpm_invert(mixture, POINTS[1:2], SIGMAS, keys[1:2])
    np.testing.assert_allclose(together.xs[:, 1:2], alone.xs, rtol=1e-6)
    np.testing.assert_allclose(together.shifts[:, 1:2], alone.shifts, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: dm.ddpm_invert(oracle, jnp.zeros((1, 1)), SIGMAS, KEY, eta=0.0), "eta=0.0"),
        (lambda: dm.ddpm_invert(oracle, jnp.zeros((1, 1)), SIGMAS[:-1], KEY), "ends at sigma="),
        (lambda: dm.ddpm_invert(oracle, jnp.zeros((1, 1)), SIGMAS, KEY).begin(1.0), "skip=1.0"),
        (lambda: dm.ddpm_invert(oracle, jnp.zeros((1, 1)), SIGMAS, KEY).begin(0.99), "none of 12"),
    ],
)
def test_what_makes_no_sense_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
