"""Laws of what is random: distributions, and the independence of what is drawn."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

import diffusion as dm
from diffusion.sampling.unit_noise import unit_noise
from diffusion.training.step import drop_label

KEY = jax.random.key(0)


def is_drawn_from(values, distribution):
    """By Kolmogorov and Smirnov; one in a thousand right draws would fail, were the key another."""
    return scipy.stats.kstest(np.ravel(values), distribution.cdf).pvalue > 1e-3


def largest_correlation(columns):
    """Of any two of the columns, in standard errors of independent ones."""
    columns = np.stack([np.ravel(column) for column in columns]).astype(np.float64)
    correlations = np.corrcoef(columns) - np.eye(len(columns))
    return np.abs(correlations).max() * np.sqrt(columns.shape[1])


def test_noise_of_other_steps_parts_images_and_keys_is_independent():
    x = jnp.zeros((2, 3000))
    draws = [unit_noise(KEY, step, x, part) for step in range(4) for part in range(3)]
    keys = jax.random.split(jax.random.key(1), 2)
    draws += [unit_noise(keys, step, x, part) for step in range(2) for part in range(2)]
    columns = np.concatenate(draws)
    assert largest_correlation(columns) < 5
    assert is_drawn_from(columns, scipy.stats.norm())


def test_a_samplers_noises_of_one_step_are_independent():
    # at the largest sigma, with an estimate of 0: two corrections and the step's own noise
    x, sigmas = jnp.zeros((1, 20_000)), jnp.array([2.0, 1.0, 0.0])
    sampler = dm.PredictorCorrector(snr=0.5, num_corrections=2)
    at = dm.StepContext(jnp.int32(0), sigmas, jnp.int32(2), KEY)
    got, _ = dm.step(sampler, lambda x, sigma: 0 * x, x, None, at)
    # Langevin: x <- x - size x + sigma sqrt(2 size) z, size = 2 snr^2; then DDPM's posterior
    variance = 0.0
    for _ in range(2):
        variance = (1 - 0.5) ** 2 * variance + 2 * 0.5 * 2.0**2
    r = (1.0 / 2.0) ** 2
    expected = r**2 * variance + 1.0**2 * (1 - r)
    assert float(got.var()) == pytest.approx(expected, rel=5 * np.sqrt(2 / 20_000))


def recorded_steps(image, label, num_steps, **settings):
    """What the network sees in each part of some steps: x_t, sigma, labels, a draw of its key."""
    seen = []

    def network(params, x, c_noise, *, dropout_key, label):
        sigma = jnp.exp(4 * c_noise)
        x_t = x * jnp.sqrt(sigma**2 + 0.25)[:, None, None, None]
        draw = jax.random.uniform(dropout_key)
        jax.debug.callback(lambda *values: seen.append(values), x_t, sigma, label, draw)
        return params["w"] * x

    optimizer, ema = optax.sgd(1e-3), dm.EMA(0.9)
    step = dm.make_train_step(network, dm.EDM(), dm.LogNormal(), optimizer, ema, **settings)
    state = dm.TrainState.create({"w": jnp.ones(())}, optimizer, ema)
    for _ in range(num_steps):
        state, _ = step(state, {"image": image, "label": label}, KEY)
    jax.effects_barrier()
    return [tuple(map(np.asarray, values)) for values in seen]


COUNT = 4000


def test_what_a_training_step_draws_is_independent_in_it_and_of_other_steps():
    image = jnp.broadcast_to(jnp.array([-1e3, 1e3])[None, None, :, None], (COUNT, 1, 2, 1))
    label = jnp.zeros(COUNT, jnp.int32)
    steps = recorded_steps(image, label, 3, label_dropout=0.5, augment=dm.Flip())
    columns = []
    for x_t, sigma, labels, _ in steps:
        is_mirrored = x_t[:, 0, 0, 0] > x_t[:, 0, 1, 0]
        clean = np.where(is_mirrored[:, None], [1e3, -1e3], [-1e3, 1e3])
        eps = (x_t[:, 0, :, 0] - clean) / sigma[:, None]
        # drawn by one key, ln(sigma) would be this one
        in_order = np.ravel(eps)[:COUNT]
        columns += [is_mirrored, labels == -1, np.log(sigma), *eps.T, in_order]
    columns += [np.roll(column, 1) for column in columns[:4]]  # of neighbouring images
    assert largest_correlation(columns) < 5
    assert is_drawn_from(columns[2], scipy.stats.norm(-1.2, 1.2))
    # x_t of 1e3 holds eps to 6e-5 over sigma, of which the smallest are 0.005
    assert is_drawn_from(columns[3], scipy.stats.norm())


def test_every_part_of_every_step_has_dropout_of_its_own():
    image, label = jnp.zeros((6, 1, 1, 1)), jnp.zeros(6, jnp.int32)
    draws = [float(draw) for *_, draw in recorded_steps(image, label, 3, accumulate=3)]
    assert len(set(draws)) == 9


def test_labels_are_dropped_independently_of_their_neighbours_and_class():
    label = jnp.arange(20_000) % 7
    is_dropped = np.asarray(drop_label(KEY, label, 0.3) == -1)
    assert largest_correlation([is_dropped, np.roll(is_dropped, 1), label]) < 5
    assert abs(is_dropped.mean() - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 20_000)


def test_each_stratified_draw_alone_has_the_distribution_and_any_two_any_order():
    keys = jax.random.split(KEY, 3000)
    sigma = np.asarray(jax.jit(jax.vmap(lambda key: dm.Stratified()(key, (4,))))(keys))
    for each in sigma.T:
        assert is_drawn_from(np.log(each), scipy.stats.norm(-1.2, 1.2))
    rank = sigma.argsort(1).argsort(1)
    orders = np.unique(rank, axis=0, return_counts=True)[1]
    assert len(orders) == 24 and scipy.stats.chisquare(orders).pvalue > 1e-3
    quarter = np.floor(4 * scipy.stats.norm(-1.2, 1.2).cdf(np.log(sigma)))
    assert (np.sort(quarter) == np.arange(4)).all()


@pytest.fixture(scope="module")
def labels():
    """Labels of `NonLeaky` by rate."""
    image = jnp.zeros((COUNT, 2, 2, 1))

    def label(rate):  # alone, so that compiling leaves out the warp
        augment = dm.NonLeaky(rate)
        return jax.jit(lambda key: augment(key, {"image": image})["augment_label"])(KEY)

    return {rate: np.asarray(label(rate)).T for rate in (0.5, 1.0)}


def test_transformations_happen_independently_of_each_other(labels):
    left_right, top_bottom, scale, _, turn, stretch, _, *shift = labels[0.5]
    happens = [left_right, top_bottom, scale != 0, turn != 0, stretch != 0, shift[0] != 0]
    assert largest_correlation([*happens, np.roll(happens[2], 1)]) < 5
    # both shifts are one transformation
    np.testing.assert_array_equal(shift[0] != 0, shift[1] != 0)


def test_transformations_have_the_papers_sizes_independently_of_each_other(labels):
    # Karras et al. 2020, arXiv:2006.06676, appendix B, with the strengths of Karras et al. 2022
    left_right, top_bottom, scale, cosine, sine, *along, x, y = labels[1.0]
    turn = np.arctan2(sine, cosine + 1)
    stretch, axis = np.copysign(np.hypot(*along), along[0]), np.arctan(along[1] / along[0])
    for size in (scale, stretch, x, y):
        assert is_drawn_from(size, scipy.stats.norm())
    assert is_drawn_from(turn, scipy.stats.uniform(-np.pi, 2 * np.pi))
    assert is_drawn_from(axis, scipy.stats.uniform(-np.pi / 2, np.pi))
    values = [scale, stretch, x, y, turn, axis]
    sizes = [np.abs(value) for value in values]
    assert largest_correlation([left_right, top_bottom, *values, *sizes]) < 6  # |v| of v is 0 too
    np.testing.assert_allclose([left_right.mean(), top_bottom.mean()], 0.5, atol=0.04)


def test_images_are_mirrored_independently_of_their_neighbours():
    image = jnp.broadcast_to(jnp.array([0.0, 1.0])[None, None, :, None], (COUNT, 1, 2, 1))
    mirrored = np.asarray(dm.Flip()(KEY, {"image": image})["image"][:, 0, 0, 0])
    assert largest_correlation([mirrored, np.roll(mirrored, 1)]) < 5
    assert abs(mirrored.mean() - 0.5) < 5 * 0.5 / np.sqrt(COUNT)


SIZE = 100


def common(x_t, sigma):
    """The exact denoiser of images whose SIZE values are one unit normal draw."""
    gain = SIZE / (SIZE + sigma[:, None] ** 2)
    return jnp.broadcast_to(gain * x_t.mean(1, keepdims=True), x_t.shape)


def test_the_probes_of_a_density_have_mean_0_and_are_independent():
    # the trace is gain (sum of probes)^2 / SIZE: for a mean m, 1 + (SIZE - 1) m^2 times too large
    count, sigma_min, sigma_max = 2000, 0.5, 80.0
    log_p, _ = dm.log_density(
        common, jnp.zeros((count, SIZE)), KEY, sigma_min=sigma_min, sigma_max=sigma_max
    )
    covariance = np.ones((SIZE, SIZE)) + sigma_min**2 * np.eye(SIZE)
    exact = scipy.stats.multivariate_normal(cov=covariance).logpdf(np.zeros(SIZE))
    # the integral of gain d ln(sigma)
    integral = np.log((1 + SIZE / sigma_min**2) / (1 + SIZE / sigma_max**2)) / 2
    spread = integral * np.sqrt(2 * (1 - 1 / SIZE))  # Var[(sum p)^2] = 2 SIZE^2 - 2 SIZE
    assert float(log_p.mean()) == pytest.approx(exact, abs=5 * spread / np.sqrt(count))
    # the square of a nearly normal variable has a kurtosis of 15
    assert float(log_p.std()) == pytest.approx(spread, rel=5 * np.sqrt(14 / 4 / count))


def test_dequantisation_spreads_a_pixel_evenly_over_its_bin_independently_of_the_probes():
    seen = []

    def denoise(x_t, sigma):
        jax.debug.callback(lambda x, s: seen.append((x, s)), x_t, sigma)
        return common(x_t, sigma)

    pixels = jnp.full((1000, SIZE), 100, jnp.uint8)
    bits = dm.bits_per_dim(denoise, pixels, KEY, sigma_min=0.5, tolerance=0.05)
    jax.effects_barrier()
    dequantised = min(seen, key=lambda pair: np.max(pair[1]))[0] * 127.5 + 127.5
    assert is_drawn_from(dequantised[:40], scipy.stats.uniform(99.5, 1.0))
    # both were larger together, were the probes the signs of the same draws
    off_centre = np.square((dequantised - 100).sum(1))
    assert largest_correlation([off_centre, bits]) < 5


def test_training_pairs_images_and_noise_by_the_coupling():
    image = jnp.linspace(-1, 1, 32)[:, None, None, None]
    label = jnp.zeros(32, jnp.int32)
    ((x_t, sigma, *_),) = recorded_steps(image, label, 1, coupling=dm.MinibatchOT())
    eps = (x_t - image)[:, 0, 0, 0] / sigma
    # in one dimension the best pairing keeps the order
    assert (jnp.diff(eps) > 0).all()
