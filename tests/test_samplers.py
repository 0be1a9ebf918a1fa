"""Laws that every sampler obeys, those of the package and one from outside it."""

import dataclasses
from functools import partial

import jax
import jax.numpy as jnp
import jaxtyping
import numpy as np
import pytest
from oracles import MEAN, STD, mixture, oracle
from sampler_table import (
    DETERMINISTIC,
    EACH_KIND,
    ON_GRID,
    ONE_OF_EACH,
    SNIPPET,
    STOCHASTIC,
    VARIANTS,
    RungeKutta2,
    mostly_slow,
    static_fields,
)

import diffusion as dm

# besides the defaults: those whose settings change the calls, the noise or the last step
VARIED = [dm.Euler(eta=1.0), dm.Heun(churn=10.0), dm.KDPM2(eta=1.0), dm.UniPC(3), dm.RK45()]
FEW_STOCHASTIC = [dm.Ancestral(), dm.Euler(eta=1.0), dm.DPMSolverSDE(), dm.SASolver()]
X_T = 80.0 * jax.random.normal(jax.random.key(0), (6, 3))
GRID = dm.Karras()(5)
UNIT64 = np.random.default_rng(0).standard_normal((5, 2))


def measured_order(errors):
    """Slope of log2(error) where the number of steps doubles."""
    return np.log2(np.array(errors[:-1]) / np.array(errors[1:]))


def grid64(num_steps, sigma_max=20.0, sigma_min=0.05, rho=7.0):
    """Karras' grid in float64; it ends above 0, so that the last step has the others' order."""
    ramp = np.linspace(sigma_max ** (1 / rho), sigma_min ** (1 / rho), num_steps + 1)
    return jnp.asarray(ramp**rho, jnp.float64)


@pytest.fixture(scope="module")
def references():
    """Starts and ends of the exact flow: in closed form for a Gaussian, by RK45 for the mixture."""
    with jax.enable_x64(True):
        x_T = 20.0 * jax.random.normal(jax.random.key(0), (1000, 2), jnp.float64)
        std = np.sqrt(np.array([STD**2 + 20.0**2, STD**2 + 0.05**2]))
        gaussian = MEAN + (x_T - MEAN) * std[1] / std[0]
        fine, _ = dm.RK45(tolerance=1e-9).count(mixture, x_T, grid64(1))
        return x_T, {oracle: gaussian, mixture: fine}


@pytest.mark.parametrize(
    ("sampler", "denoise"),
    [
        *((sampler, mixture) for sampler in DETERMINISTIC),
        *((sampler, oracle) for sampler in ONE_OF_EACH if sampler.is_deterministic),
    ],
    ids=lambda value: getattr(value, "__name__", None) or repr(value),
)
def test_order_of_convergence(references, sampler, denoise):
    x_T, ends = references
    with jax.enable_x64(True):
        reached = [sampler(denoise, x_T, grid64(n), jax.random.key(1)) for n in (84, 168)]
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
    x_T = 10.0 * jax.random.normal(jax.random.key(0), (100_000, 1))
    errors = []
    for num_steps in (10, 20, 40):
        sigmas = dm.Karras(sigma_min=2e-3, sigma_max=10.0)(num_steps)
        x_0 = sampler(oracle, x_T + MEAN, sigmas, jax.random.key(num_steps))
        errors.append(float(jnp.abs(x_0.var() / STD**2 - 1)))
    # 1e5 samples: standard error of a variance sqrt(2 / 1e5) = 0.4 %, errors from 30 to 6 %
    assert measured_order(errors) == pytest.approx(sampler.order, abs=0.35)


@pytest.mark.parametrize("sampler", mostly_slow(STOCHASTIC, FEW_STOCHASTIC), ids=repr)
def test_samples_have_the_mixtures_mean_and_covariance(sampler):
    if isinstance(sampler, dm.ConsistencySampler):
        pytest.skip("samples from consistency models, whose estimates are samples already")
    means, weights = np.array([[-1.0, 0.5], [0.8, 0.8], [0.3, -1.0]]), np.array([0.3, 0.5, 0.2])
    mean = weights @ means
    covariance = 0.25**2 * np.eye(2) + (weights[:, None] * (means - mean)).T @ (means - mean)
    x_T = 20.0 * jax.random.normal(jax.random.key(0), (10_000, 2))
    sigmas = dm.Karras(sigma_min=2e-3, sigma_max=20.0)(200)
    x_0 = np.asarray(sampler(mixture, x_T, sigmas, jax.random.key(1)), np.float64)
    # standard errors at 1e4 samples: 0.007 of a mean, 0.008 of a covariance; x_T itself lacks the
    # data's mean, 0.02 of sigma_max; steps leave below 0.01
    np.testing.assert_allclose(x_0.mean(0), mean, atol=0.04)
    np.testing.assert_allclose(np.cov(x_0.T), covariance, atol=0.03)


@pytest.mark.parametrize("sampler", [*EACH_KIND, *VARIED], ids=repr)
def test_the_last_step_returns_the_denoisers_estimate_to_the_last_bit(sampler):
    estimate = jax.random.normal(jax.random.key(1), X_T.shape)

    def denoise(x, sigma):
        return estimate

    for num_steps in (1, 2, 9):
        x_0 = sampler(denoise, X_T, dm.Karras()(num_steps), jax.random.key(1))
        np.testing.assert_array_equal(x_0, estimate)


@pytest.mark.parametrize("sampler", [*EACH_KIND, *VARIED], ids=repr)
def test_nfe_counts_the_networks_calls(sampler):
    calls = []

    def counted(x, sigma):
        jax.debug.callback(lambda: calls.append(1))
        return 0.5 * x

    def number_of_calls(sigmas):
        calls.clear()
        jax.block_until_ready(sampler(counted, jnp.ones((2, 3)), sigmas, jax.random.key(0)))
        jax.effects_barrier()
        return len(calls)

    if sampler.is_adaptive:
        _, nfe = sampler.count(lambda x, sigma: 0.5 * x, jnp.ones((2, 3)), dm.Karras()(7))
        assert sampler.nfe(7) is None and number_of_calls(dm.Karras()(7)) == nfe
    else:
        assert number_of_calls(dm.Karras()(7)) == sampler.nfe(7)
        assert number_of_calls(dm.Karras()(8)[:-1]) == sampler.nfe(7, ends_above_zero=True)


@pytest.mark.parametrize("sampler", EACH_KIND, ids=repr)
def test_with_a_key_for_each_image_a_batch_may_be_cut_anywhere(sampler):
    keys = jax.random.split(jax.random.key(1), 6)
    whole = sampler(oracle, X_T, GRID, keys)
    for cut in (slice(0, 3), slice(2, 5)):
        part = sampler(oracle, X_T[cut], GRID, keys[cut])
        np.testing.assert_allclose(part, whole[cut], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sampler", [*EACH_KIND, *VARIED], ids=repr)
def test_the_result_depends_on_the_key_unless_the_sampler_is_deterministic(sampler):
    first, again, other = (sampler(oracle, X_T, GRID, jax.random.key(k)) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    difference = float(jnp.abs(first - other).max())
    assert difference == 0 if sampler.is_deterministic else difference > 1e-2


@pytest.mark.parametrize(
    "sampler",
    [s if s in ONE_OF_EACH else pytest.param(s, marks=pytest.mark.slow) for s in DETERMINISTIC],
    ids=repr,
)
def test_a_run_may_be_cut_at_any_step_unless_the_sampler_has_memory(sampler):
    grid = dm.Karras()(20)
    whole = sampler(mixture, X_T[:, :2], grid, jax.random.key(0))
    middle = sampler(mixture, X_T[:, :2], grid[:12], jax.random.key(0))  # 11 steps: within a group
    parts = sampler(mixture, middle, grid[11:], jax.random.key(0))
    difference = float(jnp.abs(parts - whole).max())
    assert difference > 1e-4 if sampler.has_memory else difference < 1e-5


@pytest.mark.parametrize("sampler", mostly_slow(STOCHASTIC, FEW_STOCHASTIC), ids=repr)
def test_float32_images_get_the_same_noise_and_stay_float32_under_x64(sampler):
    plain = sampler(oracle, X_T, GRID, jax.random.key(0))
    with jax.enable_x64(True):
        under_x64 = sampler(oracle, X_T, GRID, jax.random.key(0))
    assert under_x64.dtype == jnp.float32
    np.testing.assert_allclose(under_x64, plain, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sampler", [*VARIANTS, dm.RePaint(dm.Heun())], ids=repr)
def test_a_sampler_is_a_pytree_of_its_numbers(sampler):
    leaves, treedef = jax.tree.flatten(sampler)
    assert treedef.unflatten(leaves) == sampler
    assert all(isinstance(leaf, int | float) for leaf in leaves)
    for placeholder in (None, object(), jnp.ones(3)):  # JAX's own utilities rebuild with such
        rebuilt = treedef.unflatten([placeholder] * len(leaves))
        for name in static_fields(sampler):
            assert getattr(rebuilt, name) == getattr(sampler, name)
    paths = jax.tree_util.tree_leaves_with_path(sampler)
    names = {f.name for f in dataclasses.fields(sampler)} - static_fields(sampler)
    assert {path[0].name for path, _ in paths} == names - {"sampler"} or "sampler" in names


@pytest.mark.parametrize("sampler", EACH_KIND, ids=repr)
def test_single_steps_with_given_noise_make_up_the_whole_run(sampler):
    key, (x, memory) = jax.random.key(3), (X_T, None)
    for step in range(len(GRID) - 1):
        at = dm.StepContext(step, GRID, len(GRID) - 1, key)
        parts = [at.noise(x, part) for part in range(sampler.num_noises)]
        noise = jnp.stack(parts) if len(parts) > 1 else parts[0]
        x, memory = dm.step(sampler, oracle, x, memory, at._replace(key=None), noise)
    np.testing.assert_allclose(x, sampler(oracle, X_T, GRID, key), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sampler", ON_GRID, ids=repr)
def test_two_steps_from_large_sigmas_to_tiny_ones_are_finite(sampler):
    for sigmas in (dm.Karras()(2), jnp.array([1e4, 1e-3, 0.0]), jnp.array([80.0, 79.99, 0.0])):
        assert jnp.isfinite(sampler(oracle, X_T, sigmas, jax.random.key(0))).all()


def test_noise_of_another_shape_and_steps_of_an_adaptive_sampler_are_refused():
    at = dm.StepContext(0, GRID, len(GRID) - 1, jax.random.key(0))
    with pytest.raises(ValueError, match="noise has the shape .6, 2."):
        dm.step(dm.Euler(1.0), oracle, X_T, None, at, jnp.ones((6, 2)))
    with pytest.raises(ValueError, match=r"noise has the shape .6, 3.; DPMSolverSDE2S"):
        dm.step(dm.DPMSolverSDE2S(), oracle, X_T, None, at, X_T)
    with pytest.raises(ValueError, match="draws noise; give it, or a key"):
        dm.step(dm.Euler(1.0), oracle, X_T, None, at._replace(key=None))
    with pytest.raises(ValueError, match="step=5 is not one of the 5 steps"):
        dm.step(dm.Euler(), oracle, X_T, None, at._replace(step=5))
    with pytest.raises(ValueError, match="RK45 is adaptive"):
        dm.step(dm.RK45(), oracle, X_T, None, at)


@pytest.mark.parametrize(
    "run",
    [dm.Euler(), dm.RK45(), dm.differentiable(dm.Euler()), partial(dm.trajectory, dm.Euler())],
)
@pytest.mark.parametrize("kind", [jnp.bfloat16, jnp.float16])
def test_a_start_of_another_type_is_refused(run, kind):
    with pytest.raises(ValueError, match="x_T is of type .*; sample in float32"):
        run(oracle, X_T.astype(kind), GRID, jax.random.key(0))


def test_churn_and_the_noise_of_the_step_are_independent():
    x_T = jax.random.normal(jax.random.key(0), (100_000, 1))
    sampler = dm.Euler(eta=1.0, churn=100.0)
    at = dm.StepContext(0, jnp.array([1.0, 0.5]), 1, jax.random.key(1))
    x, _ = dm.step(sampler, lambda x, sigma: 0.0 * x, x_T, None, at)
    # for the estimate 0, x_next is noise of sigma_next, one part kept and one part new
    assert float(x.std()) == pytest.approx(0.5, rel=0.02)


def test_heun_in_flow_time_is_the_trapezoidal_rule_of_the_velocity():
    with jax.enable_x64(True):
        sigmas = dm.Even(dm.Flow())(6).astype(jnp.float64)
        times, z = sigmas / (1 + sigmas), jnp.asarray(UNIT64)

        def velocity(z, t):
            sigma = t / (1 - t)
            x = z * (1 + sigma)
            D = oracle(x, sigma)
            return (x - D) / sigma - D

        for t, t_next in zip(times[:-2], times[1:-1], strict=True):
            slope = velocity(z, t)
            slope_next = velocity(z + (t_next - t) * slope, t_next)
            z = z + (t_next - t) * (slope + slope_next) / 2
        start = UNIT64 * (1 + sigmas[0])
        got = dm.Heun(time="flow")(oracle, start, sigmas[:-1], jax.random.key(0))
        np.testing.assert_allclose(got, z * (1 + sigmas[-2]), rtol=1e-10)


@pytest.mark.parametrize("num_steps", [4, 5, 8, 18])
def test_heun_is_edms_algorithm_on_edms_grid(num_steps):
    with jax.enable_x64(True):
        sigmas = dm.Karras()(num_steps).astype(jnp.float64)
        x = start = sigmas[0] * jnp.asarray(UNIT64)
        for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:], strict=True):
            d = (x - mixture(x, sigma)) / sigma
            x_next = x + (sigma_next - sigma) * d
            if sigma_next > 0:
                d_next = (x_next - mixture(x_next, sigma_next)) / sigma_next
                x_next = x + (sigma_next - sigma) * (d + d_next) / 2
            x = x_next
        got = dm.Heun()(mixture, start, sigmas, jax.random.key(0))
        np.testing.assert_allclose(got, x, rtol=1e-10, atol=1e-12)


def test_sampling_may_be_mapped_and_differentiated_over_a_samplers_numbers():
    def mean(sampler):
        return sampler(oracle, X_T, GRID, jax.random.key(0)).mean()

    mapped = jax.vmap(mean)(jax.tree.map(lambda _: jnp.array([0.0, 0.5]), dm.Euler()))
    np.testing.assert_allclose(mapped, [mean(dm.Euler(0.0)), mean(dm.Euler(0.5))], rtol=1e-5)
    _, by_jvp = jax.jvp(mean, (dm.Euler(0.5),), (dm.Euler(1.0),))
    by_difference = (mean(dm.Euler(0.51)) - mean(dm.Euler(0.49))) / 0.02
    assert float(by_jvp) == pytest.approx(float(by_difference), rel=0.05)


def test_a_sampler_from_outside_is_at_most_15_lines():
    lines = [
        line for line in SNIPPET.splitlines() if line and not line.startswith(("import", "from"))
    ]
    assert len(lines) <= 15


def test_the_sampler_from_outside_is_heuns_method_where_r_is_1():
    x_0 = RungeKutta2(r=1.0)(mixture, X_T[:, :2], GRID, jax.random.key(0))
    heun = dm.Heun()(mixture, X_T[:, :2], GRID, jax.random.key(0))
    np.testing.assert_allclose(x_0, heun, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: dm.Ancestral(interpolation=-0.1),
        lambda: dm.Ancestral(interpolation=1.1),
        lambda: dm.Heun(time="alpha"),
        lambda: dm.Euler(churn=-1.0),
        lambda: dm.DPMSolver(max_ratio=0.0),
        lambda: dm.UniPC(max_ratio=-1.0),
        lambda: dm.Heun(churn=-1.0),
        lambda: dm.Heun(churn_noise=-1.0),
        lambda: dm.Heun(churn_min=2.0, churn_max=1.0),
        lambda: dm.Heun(churn=float("nan")),
        lambda: dm.Euler(eta=1.5),
        lambda: dm.DPMSolver(order=1),
        lambda: dm.DPMSolver(predicts="v"),
        lambda: dm.DPMSolverSinglestep(order=4),
        lambda: dm.DPMSolverSDE2S(eta=2.0),
        lambda: dm.UniPC(B="bh3"),
        lambda: dm.PNDM(max_ratio=0.0),
        lambda: dm.DEIS(order=4),
        lambda: dm.KDPM2(eta=-0.5),
        lambda: dm.SASolver(predictor_order=1),
        lambda: dm.PredictorCorrector(snr=0.0),
        lambda: dm.PredictorCorrector(snr=5.0),
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


@pytest.mark.parametrize("sampler", [dm.Euler(), dm.RK45()])
@pytest.mark.parametrize(
    ("key", "says"),
    [
        (lambda: jax.random.PRNGKey(0), "key is an array of uint32; make it by jax.random.key"),
        (lambda: jax.random.split(jax.random.PRNGKey(0), 6), "key is an array of uint32"),
        (lambda: 0, "key is 0; make it"),
        (
            lambda: jax.random.split(jax.random.key(0), 5),
            "key has the shape .5,.; .* 6 images",
        ),
    ],
)
def test_keys_of_another_type_or_number_are_refused(sampler, key, says, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # as outside of tests
    with pytest.raises(ValueError, match=says):
        sampler(oracle, X_T, GRID, key())


def test_an_adaptive_sampler_has_no_trajectory():
    with pytest.raises(ValueError, match="RK45 is adaptive"):
        dm.trajectory(dm.RK45(), oracle, X_T, GRID, jax.random.key(0))


@pytest.mark.parametrize("sampler", EACH_KIND, ids=repr)
def test_a_trajectory_goes_from_noise_to_the_sample(sampler):
    xs, sigmas = dm.trajectory(sampler, oracle, X_T, GRID, jax.random.key(0))
    np.testing.assert_array_equal(sigmas, GRID)
    np.testing.assert_array_equal(xs[0], X_T)
    np.testing.assert_allclose(xs[-1], sampler(oracle, X_T, GRID, jax.random.key(0)), rtol=1e-5)


@pytest.mark.parametrize("sampler", [dm.Euler(eta=1.0), dm.UniPC(3)], ids=repr)
def test_frames_are_evenly_spaced_over_the_steps(sampler):
    xs, _ = dm.trajectory(sampler, oracle, X_T, GRID, jax.random.key(0))
    few, sigmas = dm.trajectory(sampler, oracle, X_T, GRID, jax.random.key(0), num_frames=3)
    np.testing.assert_array_equal(sigmas, GRID[jnp.array([0, 2, 5])])
    np.testing.assert_allclose(few, xs[jnp.array([0, 2, 5])], rtol=1e-5)
