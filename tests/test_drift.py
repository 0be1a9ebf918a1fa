"""Laws of rounding: float32 stays near float64, however many steps."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import mixture
from sampler_table import ONE_OF_EACH

import diffusion as dm
from diffusion.sampling.phi import phi

# RK45 takes other steps in float64, and keeps no more than its tolerance
SAMPLERS = [*(s for s in ONE_OF_EACH if s.is_deterministic), dm.DPMSolver(3), dm.RK45(1e-5)]


def drift(sampler, denoise, sigmas):
    """Largest distance of two of 256 end points, computed in float32 and in float64."""
    x_T = sigmas[0] * jax.random.normal(jax.random.key(0), (256, 2))
    single = np.asarray(sampler(denoise, x_T, sigmas, jax.random.key(0)), np.float64)
    with jax.enable_x64(True):
        x_T, sigmas = (jnp.asarray(np.asarray(a, np.float64)) for a in (x_T, sigmas))
        double = np.asarray(sampler(denoise, x_T, sigmas, jax.random.key(0)))
    return np.abs(single - double).max()


OFTEN = (dm.Euler(), dm.Heun(), dm.DPMSolver(3), dm.UniPC(), dm.DEIS(), dm.RK45(1e-5))


@pytest.mark.parametrize(
    "sampler",
    [s if s in OFTEN else pytest.param(s, marks=pytest.mark.slow) for s in SAMPLERS],
    ids=repr,
)
def test_float32_drifts_little_from_float64(sampler):
    for grid in (dm.Karras(), dm.Exponential(), dm.VPTimesteps()):
        for num_steps in (18, 1000):
            # a thousand roundings of 6e-8 add up to 2e-6, which the border between two Gaussians of
            # the mixture magnifies some fifty times
            assert drift(sampler, mixture, grid(num_steps)) < 1e-4, (grid, num_steps)


@pytest.mark.parametrize("k", [1, 2, 3, 4])
def test_phi_functions_keep_their_digits_from_tiny_to_large_steps(k):
    h = np.geomspace(1e-6, 40.0, 200)
    # phi_k(-h) is the integral over [0, 1] of exp(-(1 - u) h) u^(k - 1) / (k - 1)!
    nodes, weights = np.polynomial.legendre.leggauss(60)
    u = (nodes + 1) / 2
    integrand = np.exp(-(1 - u) * h[:, None]) * u ** (k - 1) / math.factorial(k - 1)
    exact = integrand @ weights / 2
    np.testing.assert_allclose(phi(k, jnp.asarray(h, jnp.float32)), exact, rtol=2e-6)
    with jax.enable_x64(True):
        np.testing.assert_allclose(phi(k, jnp.asarray(h)), exact, rtol=1e-12)


def test_a_step_keeps_the_digits_of_the_noise_that_is_left():
    # from sigma 1e4 to 1e-3: what is left of x is 1e-7 of it
    at = dm.StepContext(jnp.int32(0), jnp.array([1e4, 1e-3]), jnp.int32(1), jax.random.key(0))
    x, D = jnp.full((2, 3), 1.2345e4), jnp.zeros((2, 3))
    np.testing.assert_allclose(dm.interpolate(x, D, at.q, at.p), 1.2345e-3, rtol=1e-6)


def test_a_short_step_keeps_the_digits_of_what_it_adds():
    # float32 has 1 - q = 9.5e-7 where p is 1e-6
    x, D, p = jnp.ones((2, 3)), jnp.full((2, 3), 1e6), jnp.float32(1e-6)
    np.testing.assert_allclose(dm.interpolate(x, D, 1 - p, p), 1 + 1 - 1e-6, rtol=1e-6)
