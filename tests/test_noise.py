"""Laws of the sigma axis."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion as dm
from diffusion.noise import Grid, Noise


def textbook_alpha_bar(num_timesteps=1000):
    return np.cumprod(1 - np.linspace(1e-4, 0.02, num_timesteps))


def test_sigma_inverts_alpha_bar():
    np.testing.assert_allclose(1 / (1 + dm.VPLinear().table ** 2), textbook_alpha_bar(), rtol=1e-12)


def test_alpha_bar_ends_where_ddpm_says():
    # Ho et al. 2020, section 4: the signal left at T is small, D_KL ~ 1e-5 bits per dimension
    alpha_bar = 1 / (1 + dm.VPLinear().table ** 2)
    np.testing.assert_allclose(alpha_bar[0], 0.9999)
    np.testing.assert_allclose(alpha_bar[-1], 4.0358e-5, rtol=1e-4)


def test_timestep_inverts_the_table_at_every_entry():
    chain = dm.VPLinear()
    timesteps = chain.timestep(jnp.asarray(chain.table, jnp.float32))
    # ln sigma near 0 has a spacing of 6e-8 in float32 and steps of 5e-3: 1e-4 of a step
    np.testing.assert_allclose(timesteps, np.arange(1000), atol=1e-2)


def test_timestep_stays_at_the_ends_beyond_the_table():
    ends = dm.VPLinear().timestep(jnp.array([1e-6, 1e6]))
    np.testing.assert_array_equal(ends, [0.0, 999.0])


def test_training_visits_every_timestep_both_ends_included():
    chain = dm.VPLinear(num_timesteps=10)
    drawn = chain(jax.random.key(0), (2000,))
    np.testing.assert_array_equal(np.unique(drawn), chain.table.astype(np.float32))


def test_log_normal_has_its_mean_and_spread():
    log_sigma = jnp.log(dm.LogNormal(-1.2, 1.2)(jax.random.key(0), (100_000,)))
    # standard error 1.2 / sqrt(1e5) = 0.004; five of them
    np.testing.assert_allclose([log_sigma.mean(), log_sigma.std()], [-1.2, 1.2], atol=0.02)


@pytest.mark.parametrize("noise", [kind() for kind in typing.get_args(Noise)])
def test_training_sigmas_are_positive_and_a_function_of_the_key(noise):
    first, again = (noise(jax.random.key(3), (64,)) for _ in range(2))
    assert (first > 0).all() and first.dtype == jnp.float32
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("grid", [kind() for kind in typing.get_args(Grid)])
@pytest.mark.parametrize("num_steps", [1, 2, 18, 1000])
def test_grids_descend_to_zero(grid, num_steps):
    sigmas = grid(num_steps)
    assert sigmas.shape == (num_steps + 1,) and sigmas.dtype == jnp.float32
    assert (jnp.diff(sigmas) < 0).all() and sigmas[-1] == 0


def test_karras_begins_and_ends_where_it_is_told():
    sigmas = dm.Karras(sigma_min=0.002, sigma_max=80.0)(18)
    np.testing.assert_allclose(sigmas[jnp.array([0, -2])], [80.0, 0.002], rtol=1e-5)


def test_karras_is_even_in_the_rho_th_root():
    roots = np.asarray(dm.Karras(rho=3.0)(10)[:-1], np.float64) ** (1 / 3)
    np.testing.assert_allclose(np.diff(roots), np.diff(roots)[0], rtol=1e-4)


def test_the_whole_vp_chain_is_its_own_grid():
    chain = dm.VPLinear()
    np.testing.assert_array_equal(
        dm.VPTimesteps(chain)(1000)[:-1], chain.table[::-1].astype(np.float32)
    )


@pytest.mark.parametrize(
    "make",
    [
        lambda: dm.LogNormal(std=0.0),
        lambda: dm.VPLinear(num_timesteps=1),
        lambda: dm.VPLinear(beta_start=0.0),
        lambda: dm.VPLinear(beta_start=0.5, beta_end=0.1),
        lambda: dm.Karras(sigma_min=0.0),
        lambda: dm.Karras(sigma_min=2.0, sigma_max=1.0),
        lambda: dm.Karras(rho=0.0),
        lambda: dm.Karras()(0),
        lambda: dm.VPTimesteps()(1001),
    ],
)
def test_impossible_values_are_refused(make):
    with pytest.raises(ValueError):
        make()
