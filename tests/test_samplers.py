"""Laws that every sampler obeys, and the textbook's own formulas."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import MEAN, STD, mixture, oracle

import diffusion as dm
from diffusion.sampling.samplers import Sampler

SAMPLERS = [kind() for kind in typing.get_args(Sampler)]
STOCHASTIC = [dm.Euler(eta=1.0), dm.Ancestral(), dm.Heun(churn=10.0), dm.DPMSolverSDE()]
HIGHER = [dm.DPMSolver(3), dm.UniPC(3), dm.AdamsBashforth(2), dm.AdamsBashforth(3)]
VARIANTS = [*SAMPLERS, dm.Ancestral(interpolation=0.0), *STOCHASTIC, *HIGHER]
VARIANTS = list(dict.fromkeys(VARIANTS))


def measured_order(errors):
    """Slope of log2(error) where the number of steps doubles."""
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


def grid64(num_steps, sigma_max=20.0, sigma_min=0.05, rho=7.0):
    """Karras' grid in float64; it ends above 0, so that the last step has the others' order."""
    ramp = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), num_steps + 1)
    return jnp.asarray(ramp**rho, jnp.float64)


DETERMINISTIC = [
    dm.Euler(),
    dm.Heun(),
    dm.DPMSolver2S(),
    dm.DPMSolver(2),
    dm.DPMSolverSDE(eta=0.0),
    dm.DPMSolver(3),
    dm.UniPC(2),
    dm.UniPC(3),
    dm.AdamsBashforth(2),
    dm.AdamsBashforth(3),
    dm.AdamsBashforth(4),
]


@pytest.fixture(scope="module")
def references():
    """Starts and ends of the exact flow: in closed form for a Gaussian, by RK45 for the mixture."""
    with jax.enable_x64(True):
        x_T = 20.0 * jax.random.normal(jax.random.key(0), (1000, 2), jnp.float64)
        std = np.sqrt(np.array([STD**2 + 20.0**2, STD**2 + 0.05**2]))
        gaussian = MEAN + (x_T - MEAN) * std[1] / std[0]
        fine, _ = dm.RK45(tolerance=1e-9).count(mixture, x_T, grid64(1))
        return x_T, {oracle: gaussian, mixture: fine}


@pytest.mark.parametrize("denoise", [oracle, mixture])
@pytest.mark.parametrize("sampler", DETERMINISTIC)
def test_order_of_convergence(references, sampler, denoise):
    x_T, ends = references
    with jax.enable_x64(True):
        reached = [sampler(denoise, x_T, grid64(n), jax.random.key(1)) for n in (80, 160)]
        errors = [float(jnp.abs(x_0 - ends[denoise]).mean()) for x_0 in reached]
    # on the mixture some pass close to the border between two Gaussians: the order is met late
    tolerance = 0.25 if denoise is oracle else 0.5
    assert measured_order(errors)[0] == pytest.approx(sampler.order, abs=tolerance)


def test_the_adaptive_sampler_keeps_its_tolerance_and_counts_its_calls(references):
    x_T, ends = references
    calls, errors = [], []
    with jax.enable_x64(True):
        for tolerance in (1e-3, 1e-6):
            x_0, nfe = dm.RK45(tolerance).count(oracle, x_T, grid64(1))
            calls.append(int(nfe))
            errors.append(float(jnp.abs(x_0 - ends[oracle]).max()))
    assert (
        errors[0] < 1e-2 and errors[1] < 1e-5
    )  # of values up to 2.5, over some ten steps and more
    assert calls[0] < 100 < calls[1]


def test_ten_estimates_of_the_best_sampler_are_worth_forty_of_ddim(references):
    x_T, ends = references

    def error(sampler, num_steps):
        with jax.enable_x64(True):
            x_0 = sampler(mixture, x_T, grid64(num_steps), jax.random.key(0))
            return float(jnp.sqrt(jnp.square(x_0 - ends[mixture]).mean()))

    best = error(dm.UniPC(2), 10)
    assert best < error(dm.Euler(), 10) / 4
    assert best < error(dm.Euler(), 40)


@pytest.mark.parametrize("sampler", [dm.Ancestral(0.0), dm.Ancestral(1.0)])
def test_order_of_convergence_of_the_ancestral_samplers_variance(sampler):
    x_T = 10.0 * jax.random.normal(jax.random.key(0), (200_000, 1))
    errors = []
    for num_steps in (10, 20, 40):
        sigmas = dm.Karras(sigma_min=2e-3, sigma_max=10.0)(num_steps)
        x_0 = sampler(oracle, x_T + MEAN, sigmas, jax.random.key(num_steps))
        errors.append(float(jnp.abs(x_0.var() / STD**2 - 1)))
    # 2e5 samples: standard error of a variance sqrt(2 / 2e5) = 0.3 %, errors from 30 to 6 %
    assert measured_order(errors) == pytest.approx(sampler.order, abs=0.35)


@pytest.mark.parametrize("sampler", VARIANTS)
def test_samples_have_the_mixtures_mean_and_covariance(sampler):
    means, weights = np.array([[-1.0, 0.5], [0.8, 0.8], [0.3, -1.0]]), np.array([0.3, 0.5, 0.2])
    mean = weights @ means
    covariance = 0.25**2 * np.eye(2) + (weights[:, None] * (means - mean)).T @ (means - mean)
    x_T = 20.0 * jax.random.normal(jax.random.key(0), (20_000, 2))
    sigmas = dm.Karras(sigma_min=2e-3, sigma_max=20.0)(200)
    x_0 = np.asarray(sampler(mixture, x_T, sigmas, jax.random.key(1)), np.float64)
    # standard errors at 2e4 samples: 0.005 of a mean, 0.006 of a covariance; x_T itself lacks the
    # data's mean, 0.02 of sigma_max; steps leave below 0.01
    np.testing.assert_allclose(x_0.mean(0), mean, atol=0.04)
    np.testing.assert_allclose(np.cov(x_0.T), covariance, atol=0.03)


def test_all_deterministic_samplers_agree_in_the_limit(references):
    x_T, ends = references
    with jax.enable_x64(True):
        for sampler in DETERMINISTIC:
            x_0 = sampler(mixture, x_T, grid64(600), jax.random.key(0))
            error = float(jnp.sqrt(jnp.square(x_0 - ends[mixture]).mean()))
            # a first-order method has 0.013 at 80 steps (docs/results.md)
            assert error < (3e-3 if sampler.order == 1 else 1e-4), sampler


@pytest.mark.parametrize("num_steps", [1, 2, 9])
@pytest.mark.parametrize("sampler", VARIANTS)
def test_the_last_step_returns_the_denoisers_estimate_to_the_last_bit(sampler, num_steps):
    estimate = jax.random.normal(jax.random.key(1), (200, 3))
    x_T = 80.0 * jax.random.normal(jax.random.key(0), (200, 3))
    grid = dm.Karras()(num_steps)
    x_0 = sampler(lambda x, sigma: estimate, x_T, grid, jax.random.key(1))
    np.testing.assert_array_equal(x_0, estimate)


@pytest.mark.parametrize("sampler", VARIANTS)
def test_nfe_counts_the_networks_calls(sampler):
    calls = []

    def counted(x, sigma):
        jax.debug.callback(lambda: calls.append(1))
        return 0.5 * x

    x_0 = sampler(counted, jnp.ones((2, 3)), dm.Karras()(7), jax.random.key(0))
    jax.block_until_ready(x_0)
    jax.effects_barrier()
    if isinstance(sampler, dm.RK45):
        _, nfe = sampler.count(lambda x, sigma: 0.5 * x, jnp.ones((2, 3)), dm.Karras()(7))
        assert sampler.nfe(7) is None and len(calls) == nfe
    else:
        assert len(calls) == sampler.nfe(7)


@pytest.mark.parametrize("sampler", VARIANTS)
def test_with_a_key_for_each_image_a_batch_may_be_cut_anywhere(sampler):
    x_T = 80.0 * jax.random.normal(jax.random.key(0), (6, 3))
    keys = jax.random.split(jax.random.key(1), 6)
    sigmas = dm.Karras()(5)
    whole = sampler(oracle, x_T, sigmas, keys)
    parts = [sampler(oracle, x_T[cut], sigmas, keys[cut]) for cut in (slice(0, 2), slice(2, 6))]
    np.testing.assert_allclose(whole, jnp.concatenate(parts), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sampler", VARIANTS)
def test_the_same_key_gives_the_same_images(sampler):
    x_T = 80.0 * jax.random.normal(jax.random.key(0), (6, 3))
    first, again = (sampler(oracle, x_T, dm.Karras()(5), jax.random.key(7)) for _ in range(2))
    np.testing.assert_array_equal(first, again)


@pytest.mark.parametrize("sampler", STOCHASTIC)
def test_stochastic_samplers_follow_the_key(sampler):
    x_T = 80.0 * jax.random.normal(jax.random.key(0), (6, 3))
    first, other = (sampler(oracle, x_T, dm.Karras()(5), jax.random.key(seed)) for seed in (0, 1))
    assert jnp.abs(first - other).max() > 1e-2


@pytest.mark.parametrize(
    "make",
    [
        lambda: dm.Ancestral(interpolation=-0.1),
        lambda: dm.Ancestral(interpolation=1.1),
        lambda: dm.Heun(churn=-1.0),
        lambda: dm.Heun(churn_noise=-1.0),
        lambda: dm.Heun(churn_min=2.0, churn_max=1.0),
        lambda: dm.Heun(churn=float("nan")),
        lambda: dm.Euler(eta=1.5),
        lambda: dm.DPMSolver(order=1),
        lambda: dm.DPMSolverSDE(eta=-1.0),
        lambda: dm.UniPC(predictor_order=4),
        lambda: dm.AdamsBashforth(order=5),
        lambda: dm.RK45(tolerance=0.0),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(ValueError):
        make()


@pytest.mark.parametrize("sigmas", [[1.0], [1.0, 1.0, 0.0], [0.5, 1.0, 0.0], [1.0, -0.1]])
@pytest.mark.parametrize("sampler", [dm.Euler(), dm.RK45()])
def test_grids_that_do_not_descend_to_zero_or_above_are_refused(sampler, sigmas):
    with pytest.raises(ValueError, match="sigmas"):
        sampler(oracle, jnp.ones((2, 3)), jnp.array(sigmas), jax.random.key(0))


def test_a_sampler_that_walks_no_grid_has_no_trajectory():
    with pytest.raises(ValueError, match="RK45 chooses its own steps"):
        dm.trajectory(dm.RK45(), oracle, jnp.ones((2, 3)), dm.Karras()(5), jax.random.key(0))


@pytest.mark.parametrize("sampler", [s for s in VARIANTS if not isinstance(s, dm.RK45)])
def test_a_trajectory_leads_from_noise_to_the_sample(sampler):
    x_T, sigmas, key = 80.0 * jnp.ones((2, 3)), dm.Karras()(5), jax.random.key(3)
    way, at = dm.trajectory(sampler, oracle, x_T, sigmas, key)
    assert way.shape == (6, 2, 3)
    np.testing.assert_array_equal(at, sigmas)
    np.testing.assert_array_equal(way[0], x_T)
    np.testing.assert_allclose(way[-1], sampler(oracle, x_T, sigmas, key), rtol=1e-5)
    few, at_few = dm.trajectory(sampler, oracle, x_T, sigmas, key, num_frames=3)
    np.testing.assert_array_equal(at_few, sigmas[jnp.array([0, 2, 5])])
    np.testing.assert_allclose(few, way[jnp.array([0, 2, 5])], rtol=1e-5)
