"""Laws of noise levels: schedules, distributions of sigma, grids."""

import dataclasses
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion as dm
from diffusion.noise.distributions import Noise
from diffusion.noise.schedules import Schedule
from diffusion.sampling.vp_timesteps import Grid


def textbook_alpha_bar(num_timesteps=1000):
    return np.cumprod(1 - np.linspace(1e-4, 0.02, num_timesteps))


def test_sigma_inverts_alpha_bar():
    np.testing.assert_allclose(1 / (1 + dm.VPLinear().table ** 2), textbook_alpha_bar(), rtol=1e-12)


def test_alpha_bar_at_the_last_timestep_is_ddpms():
    # Ho et al. 2020, section 4: the signal left at T is small, D_KL ~ 1e-5 bits per dimension
    alpha_bar = 1 / (1 + dm.VPLinear().table ** 2)
    np.testing.assert_allclose(alpha_bar[0], 0.9999)
    np.testing.assert_allclose(alpha_bar[-1], 4.0358e-5, rtol=1e-4)


def test_timestep_inverts_the_table_at_every_entry():
    chain = dm.VPLinear()
    timesteps = chain.timestep(jnp.asarray(chain.table, jnp.float32))
    # ln sigma near 0 has a spacing of 6e-8 in float32 and steps of 5e-3: 1e-4 of a step
    np.testing.assert_allclose(timesteps, np.arange(1000), atol=1e-2)


def test_linear_betas_are_ddpms_chain():
    np.testing.assert_array_equal(dm.VPChain().table, dm.VPLinear().table)


def test_given_betas_are_the_chain():
    chain = dm.VPChain(num_timesteps=3, given=(0.1, 0.3, 0.2))
    np.testing.assert_allclose(1 / (1 + chain.table**2), [0.9, 0.63, 0.504], rtol=1e-12)


def test_zero_terminal_snr_leaves_nothing_of_the_image_and_keeps_the_first_timestep():
    chain = dm.VPChain(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012)
    rescaled = dataclasses.replace(chain, zero_terminal_snr=True)
    assert rescaled.table[-1] == pytest.approx(4096, rel=1e-3)
    assert rescaled.table[0] == pytest.approx(chain.table[0], rel=1e-9)
    assert (np.diff(rescaled.table) > 0).all()


def test_the_cosine_chain_is_the_papers_alpha_bar_up_to_its_cap_on_beta():
    chain = dm.VPChain(num_timesteps=4000, beta_schedule="squaredcos_cap_v2")
    alpha_bar = alpha_bar_cosine(np.arange(1, 4001) / 4000)
    np.testing.assert_allclose(1 / (1 + chain.table**2)[:-5], alpha_bar[:-5], rtol=1e-6)
    assert chain.betas[-1] == 0.999


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


@pytest.mark.parametrize(
    "noise", [*map(lambda kind: kind(), typing.get_args(Noise)), dm.Stratified(dm.VPCosine())]
)
def test_training_sigmas_are_positive_and_a_function_of_the_key(noise):
    draw = jax.jit(lambda key: noise(key, (64,)))
    first, again = (draw(jax.random.key(3)) for _ in range(2))
    assert (first > 0).all() and first.dtype == jnp.float32
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("grid", [kind() for kind in typing.get_args(Grid)])
@pytest.mark.parametrize("num_steps", [1, 2, 18, 1000])
def test_grids_descend_to_zero(grid, num_steps):
    if isinstance(grid, dm.ConsistencyTimesteps):
        grid = dataclasses.replace(grid, num_timesteps=1000)
    sigmas = grid(num_steps)
    assert sigmas.shape == (num_steps + 1,) and sigmas.dtype == jnp.float32
    assert (jnp.diff(sigmas) < 0).all() and sigmas[-1] == 0


def test_karras_starts_at_sigma_max_and_ends_at_sigma_min_then_zero():
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


SCHEDULES = [kind() for kind in typing.get_args(Schedule)]
CHAINS = [
    *(dm.VPChain(beta_schedule=kind) for kind in ("scaled_linear", "squaredcos_cap_v2", "sigmoid")),
    dm.VPChain(beta_schedule="scaled_linear", zero_terminal_snr=True),
    dm.VPChain(num_timesteps=500, given=tuple(np.geomspace(1e-4, 0.05, 500))),
]
VARIANTS = [
    *SCHEDULES,
    dm.VPCosine(scale=4.0),
    dm.Flow(scale=3.0),
    dm.VPSigmoid(tau=0.7),
    *CHAINS,
]


@pytest.mark.parametrize("schedule", VARIANTS)
def test_time_inverts_sigma(schedule):
    with jax.enable_x64(True):
        sigma = np.geomspace(schedule.sigma_min, schedule.sigma_max, 50)
        t = np.asarray(schedule.time(sigma), np.float64)
        assert t[0] >= -1e-9 and t[-1] <= 1 + 1e-9 and (np.diff(t) > 0).all()
        np.testing.assert_allclose(schedule.sigma(t), sigma, rtol=1e-6)


@pytest.mark.parametrize("schedule", VARIANTS)
def test_timesteps_run_from_0_to_999_at_most_and_stay_there_beyond(schedule):
    ends = schedule.timestep(jnp.array([1e-9, schedule.sigma_min, schedule.sigma_max, 1e9]))
    # ends on the sigma axis are ends in time; float32 holds times to 1e-7, so timesteps to 1e-3
    np.testing.assert_allclose(ends[0], ends[1], atol=0.1)
    np.testing.assert_allclose(ends[2], ends[3], atol=0.1)
    assert -0.1 <= ends[0] < ends[3] <= 999.1


def alpha_bar_cosine(t, s=0.008):
    """Nichol & Dhariwal 2021, equation 17."""
    f = np.cos((t + s) / (1 + s) * np.pi / 2) ** 2
    return f / np.cos(s / (1 + s) * np.pi / 2) ** 2


def alpha_bar_sigmoid(t, start=-3.0, end=3.0, tau=1.0):
    """Jabri et al. 2022, Algorithm 3."""
    v_start, v_end, v = (
        1 / (1 + np.exp(-x / tau)) for x in (start, end, start + t * (end - start))
    )
    return (v_end - v) / (v_end - v_start)


def alpha_bar_vp(t, beta_min=0.1, beta_max=20.0):
    """Song et al. 2021, equation 33: the mean's coefficient squared."""
    return np.exp(-(t**2) * (beta_max - beta_min) / 2 - t * beta_min)


@pytest.mark.parametrize(
    ("schedule", "alpha_bar"),
    [
        (dm.VPCosine(), alpha_bar_cosine),
        (dm.VPSigmoid(), alpha_bar_sigmoid),
        (dm.VPContinuous(), alpha_bar_vp),
    ],
)
def test_schedules_equal_the_papers_in_alpha_bar(schedule, alpha_bar):
    t = np.linspace(0.01, 0.99, 20)
    with jax.enable_x64(True):
        got = 1 / (1 + np.asarray(schedule.sigma(t)) ** 2)
    np.testing.assert_allclose(got, alpha_bar(t), rtol=1e-6)


def test_sub_vp_ve_and_flow_equal_the_papers():
    t = np.linspace(0.01, 0.99, 20)
    with jax.enable_x64(True):
        # Song et al. 2021, equation 29: mean alpha, standard deviation 1 - alpha^2
        alpha = np.sqrt(alpha_bar_vp(t))
        np.testing.assert_allclose(dm.SubVP().sigma(t), (1 - alpha**2) / alpha, rtol=1e-6)
        np.testing.assert_allclose(dm.VE(0.01, 50.0).sigma(t), 0.01 * 5000**t, rtol=1e-6)
        np.testing.assert_allclose(dm.Flow().sigma(t), t / (1 - t), rtol=1e-6)
        # Esser et al. 2024, equation 23: t_m = a t_n / (1 + (a - 1) t_n)
        shifted = 3 * t / (1 + 2 * t)
        np.testing.assert_allclose(dm.Flow(scale=3.0).sigma(t), shifted / (1 - shifted), rtol=1e-6)


def test_a_large_images_cosine_is_shifted_in_log_snr():
    # Hoogeboom et al. 2023: log SNR + 2 log(64 / 256)
    t = jnp.linspace(0.1, 0.9, 5)
    shift = -2 * jnp.log(dm.VPCosine(scale=4.0).sigma(t) / dm.VPCosine().sigma(t))
    np.testing.assert_allclose(shift, 2 * np.log(64 / 256), rtol=1e-5)


QUANTILES = [*VARIANTS, dm.LogNormal(), dm.LogitNormal()]


@pytest.mark.parametrize("noise", QUANTILES)
def test_quantiles_are_those_of_the_draws(noise):
    drawn = jnp.sort(noise(jax.random.key(0), (20_000,)))
    u = jnp.array([0.1, 0.5, 0.9])
    below = jnp.searchsorted(drawn, noise.quantile(u)) / 20_000
    np.testing.assert_allclose(below, u, atol=0.015)  # five standard errors of 0.0035 at most


@pytest.mark.parametrize("noise", QUANTILES)
def test_stratified_draws_cover_the_distribution_evenly_in_random_order(noise):
    drawn = dm.Stratified(noise)(jax.random.key(0), (64,))
    edges = noise.quantile(jnp.arange(1, 16) / 16)
    per_stratum = np.histogram(drawn, [0, *edges, np.inf])[0]
    assert abs(per_stratum - 4).max() <= 1  # a stratum's edge may fall on a draw
    assert (jnp.diff(drawn) < 0).any() and (jnp.diff(drawn) > 0).any()


def test_an_exponential_grid_is_even_in_log_snr():
    steps = np.diff(np.log(np.asarray(dm.Exponential()(10)[:-1], np.float64)))
    np.testing.assert_allclose(steps, steps[0], rtol=1e-4)


def test_beta_quantiles_of_one_and_one_are_even_times():
    grid = dm.Even(dm.VE(0.01, 50.0))(11)
    np.testing.assert_allclose(grid, [*50.0 * 5000.0 ** (-np.arange(11) / 10), 0], rtol=1e-5)
    denser = dm.Even(dm.VE(0.01, 50.0), 0.6, 0.6)(11)
    assert denser[1] > grid[1] and denser[-3] < grid[-3]  # more steps at both ends


@pytest.mark.parametrize("schedule", VARIANTS)
def test_even_grids_go_from_a_schedules_largest_sigma_to_its_smallest(schedule):
    grid = dm.Even(schedule)(20)
    assert (jnp.diff(grid) < 0).all()
    ends = [schedule.sigma_max, schedule.sigma_min, 0.0]
    np.testing.assert_allclose(grid[jnp.array([0, -2, -1])], ends, rtol=1e-4)


@pytest.mark.parametrize(
    "make",
    [
        lambda: dm.LogitNormal(std=0.0),
        lambda: dm.VPCosine(scale=0.0),
        lambda: dm.VPCosine(s=-1.0),
        lambda: dm.VPSigmoid(start=1.0, end=1.0),
        lambda: dm.VPContinuous(beta_min=0.0),
        lambda: dm.SubVP(beta_min=3.0, beta_max=2.0),
        lambda: dm.VE(sigma_min=2.0, sigma_max=1.0),
        lambda: dm.Flow(scale=-1.0),
        lambda: dm.Exponential(sigma_min=0.0),
        lambda: dm.Exponential(power=0.0),
        lambda: dm.Even(alpha=0.0),
        lambda: dm.VPTimesteps(spacing="even"),
        lambda: dm.LogNormal(std=0.0),
        lambda: dm.VPChain(beta_schedule="cosine"),
        lambda: dm.VPChain(num_timesteps=2, given=(0.1,)),
        lambda: dm.VPChain(num_timesteps=2, given=(0.1, 1.0)),
        lambda: dm.Eps(dm.VPChain(zero_terminal_snr=True)),
        lambda: dm.VPTimesteps(offset=-1),
        lambda: dm.VPTimesteps(spacing="leading", offset=200)(5),
        lambda: dm.VPTimesteps(drops_last=True)(1000),
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
