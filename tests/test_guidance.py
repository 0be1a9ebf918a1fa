"""Laws of the functions from denoise to denoise."""

import jax.numpy as jnp
import numpy as np
import pytest

import diffusion as dm

X_T, SIGMA = jnp.linspace(-2.0, 2.0, 6).reshape(2, 3), jnp.float32(1.0)


def cond(x_t, sigma):
    return x_t * 3.0


def uncond(x_t, sigma):
    return x_t


@pytest.mark.parametrize(("scale", "factor"), [(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)])
def test_classifier_free_extrapolates_from_uncond_through_cond(scale, factor):
    guided = dm.classifier_free(cond, uncond, scale)
    np.testing.assert_allclose(guided(X_T, SIGMA), factor * X_T, rtol=1e-6)


def test_clip_keeps_the_estimate_in_range_and_changes_nothing_else():
    np.testing.assert_allclose(dm.clip(uncond)(X_T, SIGMA), jnp.clip(X_T, -1.0, 1.0))
