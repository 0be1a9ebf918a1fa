"""Guards of several conditions, each met alone; sums whose every term dominates once."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats
from oracles import oracle

import diffusion as dm
from diffusion.denoiser import Denoiser
from unet_flax import GroupNorm
from unet_flax.embeddings import check_label

KEY = jax.random.key(0)


def overflowing_loss(params, x, c_noise, *, dropout_key=None):
    """Nearly constant, so that the gradient is small beside the loss."""
    return 1e-10 * params["w"] + jnp.zeros_like(x)


def infinite_slope(params, x, c_noise, *, dropout_key=None):
    return jnp.sqrt(params["w"] - 1) * jnp.ones_like(x)


@pytest.mark.parametrize(
    ("network", "size", "bad"),
    [(overflowing_loss, 2.5e19, "loss"), (infinite_slope, 1.0, "grad_norm")],
)
def test_a_loss_or_a_gradient_that_is_not_finite_skips_the_step_alone(network, size, bad):
    optimizer, ema = optax.sgd(1e-3), dm.EMA(0.9)
    step = dm.make_train_step(network, dm.X0(), dm.LogNormal(), optimizer, ema)
    state = dm.TrainState.create({"w": jnp.ones(())}, optimizer, ema)
    # one image of eight: the square of its error overflows, but not that of the mean's slope
    image = jnp.zeros((8, 1, 1, 1)).at[0].set(size)
    state, metrics = step(state, {"image": image}, KEY)
    finite = {name: bool(jnp.isfinite(metrics[name])) for name in ("loss", "grad_norm")}
    assert finite == {"loss": True, "grad_norm": True} | {bad: False}
    assert metrics["skipped"] == 1 and state.step == 1
    assert state.params["w"] == 1 and state.ema["w"] == 1


def test_the_step_reports_each_loss_in_the_interval_of_its_noise_level():
    optimizer, ema, noise = optax.sgd(1e-3), dm.EMA(0.9), dm.LogNormal(mean=1.0, std=2.0)
    step = dm.make_train_step(
        lambda params, x, c_noise, *, dropout_key=None: params["w"] * x,
        *(dm.EDM(), noise, optimizer, ema),
    )
    state = dm.TrainState.create({"w": jnp.ones(())}, optimizer, ema)
    _, metrics = step(state, {"image": jnp.ones((4000, 1, 1, 1))}, KEY)
    below = scipy.stats.norm(1.0, 2.0).cdf(np.log([0.1, 1.0, 10.0]))
    expected = np.diff([0.0, *below, 1.0])
    # five standard errors of a share of a half at most
    np.testing.assert_allclose(metrics["level_counts"] / 4000, expected, atol=0.04)


def scaled(params, x, c_noise, **cond):
    return params * x * (1 + sum(cond.values(), jnp.zeros(len(x))))[:, None]


def scaled_otherwise(params, x, c_noise, **cond):
    return -scaled(params, x, c_noise, **cond)


PARAMS = jnp.float32(2.0)
GOOD = Denoiser(scaled, PARAMS, dm.EDM(0.5), {"a": jnp.ones(2)})


@pytest.mark.parametrize(
    "change",
    [
        {"network": scaled_otherwise},
        {"params": jnp.float32(1.0)},
        {"preconditioning": dm.EDM(0.7)},
        {"cond": {}},
        {"cond": {"b": jnp.zeros(2)}},
        {"cond": {"a": jnp.zeros(2)}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_guidance_by_denoisers_that_differ_in_one_thing_is_that_of_separate_calls(change):
    bad = dataclasses.replace(GOOD, **change)
    x_t, sigma = jnp.array([[1.0, -2.0], [0.5, 3.0]]), jnp.float32(1.5)
    expected = 3 * GOOD(x_t, sigma) - 2 * bad(x_t, sigma)
    assert jnp.abs(GOOD(x_t, sigma) - bad(x_t, sigma)).max() > 0.05
    got = dm.classifier_free(GOOD, bad, 3.0)(x_t, sigma)
    np.testing.assert_allclose(got, expected, rtol=1e-5)


def test_guidance_holds_above_the_intervals_lower_end_and_up_to_its_upper_one():
    denoise = dm.in_interval(lambda x, s: 0 * x + 1, lambda x, s: 0 * x, 0.5, 2.0)
    sigma = jnp.array([0.499, 0.5, 0.501, 1.999, 2.0, 2.001])
    expected = [0, 0, 1, 1, 1, 0]
    np.testing.assert_array_equal(denoise(jnp.zeros((6, 1)), sigma)[:, 0], expected)
    each = [denoise(jnp.zeros((1, 1)), s)[0, 0] for s in sigma]
    np.testing.assert_array_equal(each, expected)


@pytest.mark.parametrize("max_bound", [1.5, 10.0])
def test_dynamic_clipping_divides_by_no_more_than_its_largest_bound(max_bound):
    x = jnp.array([[-4.0, 0.1, 2.0]])
    got = dm.clip_dynamically(lambda x, s: x, share=1.0, max_bound=max_bound)(x, jnp.float32(1))
    bound = min(4.0, max_bound)
    np.testing.assert_allclose(got, np.clip(x, -bound, bound) / bound, rtol=1e-6)


def order_after(*lengths, highest, max_ratio=2.0):
    """The trusted order of a step; lengths in ln(sigma), those of the steps before it first."""
    sigmas = jnp.asarray(np.exp(-np.cumsum([0.0, *lengths])), jnp.float32)
    step = len(lengths) - 1
    at = dm.StepContext(jnp.int32(step), sigmas, jnp.int32(len(lengths)), KEY)
    return int(at.trusted_order(highest, max_ratio))


@pytest.mark.parametrize(
    ("lengths", "highest", "order"),
    [
        ((0.1, 0.1), 2, 2),
        ((0.1, 0.19), 2, 2),
        ((0.1, 0.21), 2, 1),  # more than twice the step before
        ((0.1,), 3, 1),
        ((0.1, 0.1), 3, 2),
        ((0.1, 0.1, 0.1), 3, 3),
        ((0.1, 0.1, 0.149), 3, 3),
        ((0.1, 0.1, 0.151), 3, 2),  # this step is more than 3/4 of 2 times the one before
        ((0.1, 0.149, 0.1), 3, 3),
        ((0.1, 0.151, 0.1), 3, 2),  # the step before is
        ((0.99, 0.99, 0.99), 3, 3),
        ((1.01, 1.01, 1.01), 3, 2),  # longer than half of 2
        ((0.1, 0.1, 0.21), 3, 1),
    ],
)
def test_each_condition_alone_lowers_the_order_of_a_step(lengths, highest, order):
    assert order_after(*lengths, highest=highest) == order
    number = min(len(lengths), highest)
    assert order_after(*lengths, highest=highest, max_ratio=math.inf) == number


@pytest.mark.parametrize(("sigma", "sigma_next"), [(30.0, 3.1), (30.0, 2.9), (3.0, 0.2)])
def test_a_step_is_taken_in_flow_time_where_it_is_long_and_ends_above_one(sigma, sigma_next):
    x, sigmas = jnp.array([[7.0, -3.0]]), jnp.array([sigma, sigma_next])
    at = dm.StepContext(jnp.int32(0), sigmas, jnp.int32(1), KEY)
    got, in_flow_time = (
        dm.step(sampler, oracle, x, None, at)[0] for sampler in (dm.Heun(), dm.Heun(time="flow"))
    )
    # the trapezoidal rule in sigma, Karras et al. 2022, Algorithm 1
    slope = (x - oracle(x, jnp.float32(sigma))) / sigma
    x_next = x + (sigma_next - sigma) * slope
    slope_next = (x_next - oracle(x_next, jnp.float32(sigma_next))) / sigma_next
    in_sigma = x + (sigma_next - sigma) * (slope + slope_next) / 2
    is_long = sigma / sigma_next > 10 and sigma_next > 1
    np.testing.assert_allclose(got, in_flow_time if is_long else in_sigma, atol=1e-5)
    assert jnp.abs(in_flow_time - in_sigma).max() > 1e-2


@pytest.mark.parametrize(("sigma", "sigma_next"), [(30.0, 3.1), (30.0, 2.9), (3.0, 0.2)])
def test_the_midpoint_rule_is_dpm_solvers_where_a_step_is_long_and_ends_above_one(
    sigma, sigma_next
):
    x, sigmas = jnp.array([[7.0, -3.0]]), jnp.array([sigma, sigma_next])
    at = dm.StepContext(jnp.int32(0), sigmas, jnp.int32(1), KEY)
    got, other = (
        dm.step(sampler, oracle, x, None, at)[0] for sampler in (dm.KDPM2(), dm.DPMSolver2S())
    )
    # k-diffusion, sample_dpm_2
    middle = math.sqrt(sigma * sigma_next)
    x_mid = x + (middle - sigma) * (x - oracle(x, jnp.float32(sigma))) / sigma
    slope = (x_mid - oracle(x_mid, jnp.float32(middle))) / middle
    is_long = sigma / sigma_next > 10 and sigma_next > 1
    expected = other if is_long else x + (sigma_next - sigma) * slope
    np.testing.assert_allclose(got, expected, atol=1e-5)


def std_after(sampler, *sigmas):
    """Standard deviation after the first step of a grid, from 0, where the estimate is 0."""
    x = jnp.zeros((1, 20_000))
    at = dm.StepContext(jnp.int32(0), jnp.array(sigmas), jnp.int32(len(sigmas) - 1), KEY)
    return float(dm.step(sampler, lambda x, sigma: 0 * x, x, None, at)[0].std())


@pytest.mark.parametrize(
    ("sigma", "is_within"), [(0.99, False), (1.0, True), (2.0, True), (2.01, False)]
)
def test_churn_is_added_from_its_smallest_to_its_largest_sigma(sigma, is_within):
    sampler = dm.Euler(churn=0.2, churn_min=1.0, churn_max=2.0, churn_noise=1.5)
    # Karras et al. 2022, Algorithm 2: gamma = churn / steps; then Euler shrinks to sigma_next
    gamma = 0.2 / 2 * is_within
    added = 1.5 * sigma * np.sqrt((1 + gamma) ** 2 - 1)
    expected = added * 0.5 / (sigma * (1 + gamma))
    assert std_after(sampler, sigma, 0.5, 0.0) == pytest.approx(expected, rel=0.025)


def test_churn_is_bounded_however_large():
    # Algorithm 2: gamma is at most sqrt(2) - 1, which doubles the variance
    expected = np.sqrt(2 - 1) * 0.5 / np.sqrt(2)
    assert std_after(dm.Euler(churn=100.0), 1.0, 0.5, 0.0) == pytest.approx(expected, rel=0.025)


def test_a_consistency_models_next_noise_leaves_what_the_estimate_has():
    # Song et al. 2023, Algorithm 1: sqrt(sigma_next^2 - sigma_min^2) z
    sampler = dm.ConsistencySampler(sigma_min=0.3)
    assert std_after(sampler, 2.0, 0.5, 0.0) == pytest.approx(0.4, rel=0.025)
    assert std_after(sampler, 2.0, 0.2, 0.0) == 0.0


@pytest.mark.parametrize(
    ("label", "has_null", "fits"),
    [(-2, True, False), (-1, True, True), (-1, False, False), (0, False, True), (2, True, True)]
    + [(3, True, False), (3, False, False)],
)
def test_labels_are_checked_at_both_ends(label, has_null, fits):
    labels = jnp.array([0, label])
    if fits:
        check_label(labels, 3, has_null=has_null)
    else:
        with pytest.raises(ValueError, match=f"label {label} is outside"):
            check_label(labels, 3, has_null=has_null)


def test_group_norm_of_a_constant_is_its_bias_however_the_variance_is_rounded():
    values = jnp.asarray(np.random.default_rng(0).uniform(100, 3000, (500, 1, 1, 1)), jnp.float32)
    x = jnp.broadcast_to(values, (500, 3, 3, 2))
    var = jnp.square(x).mean((1, 2)) - jnp.square(x.mean((1, 2)))
    assert (var < -1e-6).any()  # where the root would be of a number below 0
    assert jnp.isfinite(GroupNorm(2, 1)(x)).all()


BITS = math.log(2)


def test_the_bounds_prior_dominates_on_a_grid_that_begins_in_the_image():
    pixels = jnp.asarray(np.random.default_rng(0).integers(0, 256, (5, 4, 4, 1)), jnp.uint8)
    image = np.asarray(pixels, np.float64) / 127.5 - 1
    grid = jnp.array([0.05, 0.04, 0.0])
    exact = lambda x_t, sigma: jnp.asarray(image, jnp.float32)  # noqa: E731
    bound = dm.variational_bound(exact, pixels, grid, KEY)
    # Ho et al. 2020, L_T: KL(N(x_0, sigma^2) || N(0, sigma^2))
    expected = np.square(image).mean((1, 2, 3)) / (2 * 0.05**2) / BITS
    np.testing.assert_allclose(bound.prior, expected, rtol=1e-5)
    assert (bound.prior > 20 * bound.decoder).all() and (bound.steps < 1e-10).all()
    np.testing.assert_allclose(bound.total, bound.prior + bound.decoder, rtol=1e-6)


def test_the_bounds_steps_dominate_where_the_estimate_is_wrong():
    pixels = jnp.full((2, 4, 4, 1), 128, jnp.uint8)
    image, wrong = 128 / 127.5 - 1, 0.5
    grid = jnp.array([10.0, 1.0, 0.1, 0.01, 0.0])
    bound = dm.variational_bound(lambda x_t, sigma: 0 * x_t + image + wrong, pixels, grid, KEY)
    # Kingma et al. 2021, equation 13, summed over steps
    expected = (1 / 0.01**2 - 1 / 10.0**2) * wrong**2 / 2 / BITS
    np.testing.assert_allclose(bound.steps, expected, rtol=1e-5)
    assert (bound.prior < 1e-4).all()


@pytest.mark.parametrize("num_values", [64, 65])
def test_densities_are_exact_up_to_64_values(num_values):
    # the trace of the Jacobian is 0, but probes see its other entries
    shift = jnp.asarray(np.eye(num_values, k=1) + np.eye(num_values, k=-1), jnp.float32) / 4
    image = jnp.zeros((8, num_values))
    log_p, _ = dm.log_density(
        lambda x, s: x @ shift, image, KEY, sigma_min=1.0, sigma_max=3.0, tolerance=1e-2
    )
    assert (float(log_p.std()) < 1e-3) == (num_values == 64)


def test_the_learned_uncertainty_is_as_smooth_as_its_features():
    uncertainty = dm.Uncertainty(num_features=20_000)
    log_sigma = jnp.array([0.0, 0.5, 1.0, 3.0])
    features = jax.jacobian(uncertainty.log_loss)(uncertainty.init(), jnp.exp(log_sigma))["kernel"]
    # cos(2 pi (w c + phase)), w unit normal, c = ln(sigma) / 4: its covariance is a Gaussian's
    gap = np.subtract.outer(log_sigma, log_sigma) / 4
    expected = np.exp(-np.square(2 * np.pi * gap) / 2)
    np.testing.assert_allclose(features @ features.T, expected, atol=5 / np.sqrt(20_000))


def test_the_uncertaintys_two_terms_are_least_at_the_losss_logarithm():
    uncertainty = dm.Uncertainty(num_features=4)
    sigma, loss = jnp.array([0.1, 7.0]), jnp.array([1e-3, 40.0])
    learned = {"kernel": jnp.array([3.0, -2.0, 1.0, 4.0])}
    u = np.asarray(uncertainty.log_loss(learned, sigma), np.float64)
    np.testing.assert_allclose(
        uncertainty(learned, sigma, loss), np.asarray(loss) / np.exp(u) + u, rtol=1e-5
    )
