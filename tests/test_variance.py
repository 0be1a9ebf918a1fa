"""Laws of the learned variance: from the network's output to the sampler and the bound."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sampler_table import ON_GRID, ONE_OF_EACH

import diffusion as dm
from diffusion.adjusted import with_variance
from diffusion.pixels import BIN
from diffusion.variance import decoder_nats, step_nats

KEY = jax.random.key(0)
SLOW = pytest.mark.slow
GRID = dm.VPTimesteps()(20)
X_T = GRID[0] * jax.random.normal(jax.random.key(1), (3, 4, 4, 2))


def mean_network(params, x, c_noise):
    return params["w"] * jnp.tanh(x)


def network(params, x, c_noise):
    """Predicts the same, and the v that interpolates by params["i"]."""
    F = mean_network(params, x, c_noise)
    return jnp.concatenate([F, jnp.full_like(x, 2 * params["i"] - 1)], axis=-1)


def denoiser(network=network, w=0.9, i=0.3):
    return dm.denoiser(network, {"w": jnp.float32(w), "i": jnp.float32(i)}, dm.Eps())


def plain(x_t, sigma):
    return denoiser(mean_network)(x_t, sigma)


WRAPPERS = {
    "classifier_free": lambda d: dm.classifier_free(d, d, 2.0),
    "autoguidance": lambda d: dm.autoguidance(d, denoiser(w=0.5, i=0.8), 2.0),
    "autoguidance_by_the_mean_alone": lambda d: dm.autoguidance(d, plain, 2.0),
    "in_interval": lambda d: dm.in_interval(dm.clip(d), d, 0.1, 2.0),
    "classifier_guided": lambda d: dm.classifier_guided(
        d, lambda x, s: -jnp.square(x).sum((1, 2, 3))
    ),
    "clip": dm.clip,
    "clip_dynamically": dm.clip_dynamically,
    "inpaint": lambda d: dm.inpaint(d, jnp.zeros((4, 4, 2)), jnp.eye(4, dtype=bool)),
    "super_resolve": lambda d: dm.super_resolve(d, jnp.zeros((2, 2, 2))),
}


def test_the_first_half_is_the_mean_and_the_second_interpolates():
    x_0_hat, interpolation = denoiser().with_variance(X_T, GRID[0])
    np.testing.assert_array_equal(x_0_hat, denoiser(mean_network)(X_T, GRID[0]))
    np.testing.assert_array_equal(denoiser()(X_T, GRID[0]), x_0_hat)
    np.testing.assert_allclose(interpolation, jnp.full_like(X_T, 0.3), rtol=1e-6)


@pytest.mark.parametrize("channels", [1, 3, 5, 6])
def test_any_other_number_of_channels_is_refused_by_both_numbers(channels):
    denoise = denoiser(lambda params, x, c_noise: jnp.zeros((*x.shape[:-1], channels)))
    with pytest.raises(ValueError, match=rf"\(3, 4, 4, {channels}\).* 2 channels, or 4"):
        denoise(X_T, GRID[0])


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=WRAPPERS)
@pytest.mark.parametrize("sigma", [jnp.float32(1.0), jnp.array([0.05, 1.0, 5.0])])
def test_what_stands_on_a_denoiser_passes_its_variance_on(wrap, sigma):
    denoise = wrap(denoiser())
    x_0_hat, interpolation = with_variance(denoise, X_T, sigma)
    np.testing.assert_array_equal(x_0_hat, denoise(X_T, sigma))
    np.testing.assert_allclose(interpolation, jnp.full_like(X_T, 0.3), rtol=1e-6)
    assert wrap(denoiser(mean_network))(X_T, sigma).shape == X_T.shape


def test_guidance_takes_the_conditional_variance_and_an_interval_the_one_in_use():
    def by_label(params, x, c_noise, *, label):
        v = jnp.broadcast_to(label.reshape(-1, 1, 1, 1), x.shape)
        return jnp.concatenate([jnp.tanh(x), v], axis=-1)

    def of(v):
        return dm.denoiser(by_label, {}, dm.Eps(), label=jnp.full(3, v))

    cond, uncond = of(0.5), of(-0.5)  # interpolations of 0.75 and 0.25
    guided = dm.classifier_free(cond, uncond, 2.0)
    _, interpolation = with_variance(guided, X_T, jnp.float32(1.0))
    np.testing.assert_allclose(interpolation, jnp.full_like(X_T, 0.75))
    within = dm.in_interval(guided, uncond, 0.1, 2.0)
    sigma = jnp.array([0.05, 1.0, 5.0])
    for scalar, expected in zip(sigma, (0.25, 0.75, 0.25), strict=True):
        _, interpolation = with_variance(within, X_T, scalar)
        np.testing.assert_allclose(interpolation, jnp.full_like(X_T, expected))
    _, interpolation = with_variance(within, X_T, sigma)
    np.testing.assert_allclose(interpolation[:, 0, 0, 0], [0.25, 0.75, 0.25])


@pytest.mark.parametrize("wrap", [lambda d: d, *WRAPPERS.values()], ids=["none", *WRAPPERS])
def test_a_denoiser_without_a_variance_is_refused_where_one_is_needed(wrap):
    for denoise in (denoiser(mean_network), plain):
        with pytest.raises(ValueError, match="give Ancestral an interpolation"):
            dm.Ancestral(None)(wrap(denoise), X_T, GRID, KEY)


@pytest.mark.parametrize(
    "sampler",
    [s if s in (dm.Heun(), dm.Ancestral()) else pytest.param(s, marks=SLOW) for s in ONE_OF_EACH],
    ids=str,
)
def test_every_sampler_takes_the_means_half(sampler):
    expected = sampler(denoiser(mean_network), X_T, GRID, KEY)
    np.testing.assert_array_equal(sampler(denoiser(), X_T, GRID, KEY), expected)


@pytest.mark.parametrize("i", [0.0, 0.3, 1.0])
def test_a_constant_output_is_the_constant_interpolation(i):
    learned = dm.Ancestral(None)(denoiser(i=i), X_T, GRID, KEY)
    given = dm.Ancestral(i)(denoiser(), X_T, GRID, KEY)
    # 2 i - 1 and back rounds i by 1e-7, and the variance by as much times ln(large / small)
    np.testing.assert_allclose(learned, given, rtol=1e-4, atol=1e-5)


def test_repaint_and_trajectories_take_the_learned_variance():
    sampler = dm.Ancestral(None)
    x_0 = sampler(denoiser(), X_T, GRID, KEY)
    frames, _ = dm.trajectory(sampler, denoiser(), X_T, GRID, KEY, num_frames=4)
    np.testing.assert_allclose(frames[-1], x_0, rtol=1e-5, atol=1e-6)
    once = dm.RePaint(sampler, num_resample=1)
    np.testing.assert_allclose(once(denoiser(), X_T, GRID, KEY), x_0, rtol=1e-5, atol=1e-6)
    assert once.needs_variance and not dm.RePaint(dm.Ancestral(0.0)).needs_variance
    assert not any(sampler.needs_variance for sampler in ON_GRID)


def test_new_weights_scales_and_grids_compile_nothing_with_a_learned_variance():
    traces = []

    def traced(params, x, c_noise):
        traces.append(1)
        return network(params, x, c_noise)

    def run(w, scale, num_steps):
        denoise = dm.clip(dm.autoguidance(denoiser(traced, w=w), denoiser(traced), scale))
        return dm.Ancestral(None)(denoise, X_T, dm.VPTimesteps()(num_steps), KEY)

    run(0.9, 2.0, 20)
    before = len(traces)
    run(0.8, 3.0, 21)
    assert len(traces) == before


def in_float64(function, *values):
    with jax.enable_x64(True):
        return function(*(jnp.asarray(value, jnp.float64) for value in values))


def optimal(sigma, sigma_next, std):
    """The interpolation at which a step's variance is the true one, for data N(0, std^2).

    Var[x_next | x_t] = small + (1 - r)^2 Var[x_0 | x_t]
    """
    r, x_0_variance = (sigma_next / sigma) ** 2, std**2 * sigma**2 / (std**2 + sigma**2)
    small = sigma_next**2 * (1 - r)
    large = (1 + sigma_next**2) * (sigma**2 - sigma_next**2) / (1 + sigma**2)
    return np.log1p((1 - r) ** 2 * x_0_variance / small) / np.log(large / small)


@pytest.mark.parametrize("std", [0.2, 0.5, 1.0])
@pytest.mark.parametrize(("sigma", "sigma_next"), [(50.0, 10.0), (1.0, 0.9), (0.1, 0.05)])
def test_the_bound_is_least_where_the_variance_is_the_true_one(std, sigma, sigma_next):
    error = std * sigma / np.sqrt(std**2 + sigma**2)  # of the exact denoiser, rms
    q = sigma_next / sigma

    def nats(i):
        return in_float64(step_nats, 0.0, error, i, sigma, q, 1 - q)

    best = optimal(sigma, sigma_next, std)
    assert 0 <= best <= 1 + 1e-12
    assert nats(best) < min(nats(best - 0.05), nats(best + 0.05))
    slope = in_float64(jax.grad(step_nats, argnums=2), 0.0, error, best, sigma, q, 1 - q)
    assert abs(float(slope)) < 1e-9


def test_with_the_true_variance_few_steps_sample_a_gaussian_exactly():
    std, sigmas = 0.5, np.array([40.0, 4.0, 0.8, 0.2, 0.01, 0.0], np.float32)
    table = jnp.asarray(
        [optimal(*pair, std) for pair in zip(sigmas[:-2], sigmas[1:], strict=False)]
    )

    class Exact:
        def __call__(self, x_t, sigma):
            return x_t * std**2 / (std**2 + sigma**2)

        def with_variance(self, x_t, sigma):
            i = table[jnp.searchsorted(-jnp.asarray(sigmas[:-2]), -sigma)]
            return self(x_t, sigma), jnp.full_like(x_t, i)

    jax.tree_util.register_static(Exact)
    x_T = jnp.sqrt(sigmas[0] ** 2 + std**2) * jax.random.normal(KEY, (100_000, 1))
    x_0 = dm.Ancestral(None)(Exact(), x_T, jnp.asarray(sigmas), jax.random.key(3))
    # standard error of a standard deviation: std / sqrt(2 * 100,000) = 0.0011
    assert float(x_0.std()) == pytest.approx(std, abs=0.005)
    fixed = dm.Ancestral(0.0)(Exact(), x_T, jnp.asarray(sigmas), jax.random.key(3))
    assert abs(float(fixed.std()) - std) > 0.05


def test_a_steps_cost_is_the_papers_in_alpha_bar():
    betas = np.linspace(1e-4, 0.02, 1000)
    alpha_bar = np.cumprod(1 - betas)
    rng = np.random.default_rng(0)
    x_0, x_0_hat, i = *rng.uniform(-1, 1, (2, 50)), rng.uniform(0, 1, 50)
    for t in (1, 2, 500, 999):
        beta_tilde = betas[t] * (1 - alpha_bar[t - 1]) / (1 - alpha_bar[t])
        log_variance = i * np.log(betas[t]) + (1 - i) * np.log(beta_tilde)
        weight = np.sqrt(alpha_bar[t - 1]) * betas[t] / (1 - alpha_bar[t])
        distance = np.square(weight * (x_0 - x_0_hat))
        expected = (log_variance - np.log(beta_tilde) - 1) / 2
        expected += (beta_tilde + distance) * np.exp(-log_variance) / 2
        sigmas = np.sqrt(1 / alpha_bar - 1)
        q = sigmas[t - 1] / sigmas[t]
        got = in_float64(step_nats, x_0, x_0_hat, i, sigmas[t], q, 1 - q)
        np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9)


def test_the_decoders_cost_is_the_papers_in_alpha_bar():
    betas = np.linspace(1e-4, 0.02, 1000)
    alpha_bar = np.cumprod(1 - betas)
    beta_tilde = betas[1] * (1 - alpha_bar[0]) / (1 - alpha_bar[1])
    sigmas, i = np.sqrt(1 / alpha_bar - 1), np.linspace(0, 1, 5)
    std = np.exp((i * np.log(betas[0]) + (1 - i) * np.log(beta_tilde)) / 2)
    x_0 = np.array([-1.0, 0.5, 1.0])[:, None] + 0 * i
    x_0_hat = x_0 * 0.995
    normal = jax.scipy.stats.norm.cdf
    with jax.enable_x64(True):
        upper = np.where(x_0 == 1, 1.0, normal((x_0 + BIN / 2 - x_0_hat) / std[None]))
        lower = np.where(x_0 == -1, 0.0, normal((x_0 - BIN / 2 - x_0_hat) / std[None]))
    p_before = 1 - sigmas[0] / sigmas[1]
    got = in_float64(decoder_nats, x_0, x_0_hat, i[None], sigmas[0], p_before)
    np.testing.assert_allclose(got, -np.log(upper - lower), rtol=1e-6)


def test_the_bound_takes_the_learned_variance():
    pixels = jnp.asarray(np.random.default_rng(0).integers(0, 256, (3, 4, 4, 2)), jnp.uint8)
    grid = dm.VPTimesteps()(1000)
    for i in (0.0, 0.7):
        learned = dm.variational_bound(denoiser(i=i), pixels, grid, KEY, interpolation=None)
        given = dm.variational_bound(denoiser(), pixels, grid, KEY, interpolation=i)
        np.testing.assert_allclose(learned.steps, given.steps, rtol=1e-4)
    for denoise in (denoiser(mean_network), plain):
        with pytest.raises(ValueError, match="learned variance"):
            dm.variational_bound(denoise, pixels, grid, KEY, interpolation=None)
    with pytest.raises(ValueError, match="interpolation=2"):
        dm.variational_bound(denoiser(), pixels, grid, KEY, interpolation=2.0)


@pytest.mark.parametrize(
    "wrap",
    [
        lambda denoise: denoise,
        lambda denoise: dm.in_interval(denoise, denoise, 0.0, 100.0),
        lambda denoise: dm.classifier_guided(denoise, lambda x, sigma: 0.0 * x.sum(1), 1.0),
    ],
)
def test_the_noise_before_clipping_passes_through_what_is_around_it(wrap):
    # D = 2 is clipped to 1; from x = 3 at sigma 2 to sigma 1 eps is (3 - 2) / 2, so x_0 + eps = 1.5
    denoise = wrap(dm.clip(lambda x, sigma: jnp.full_like(x, 2.0)))
    x, sigmas = jnp.full((2, 3), 3.0), jnp.array([2.0, 1.0])
    kept = dm.Euler(keeps_eps=True)(denoise, x, sigmas, jax.random.key(0))
    np.testing.assert_allclose(kept, 1.5, rtol=1e-6)
    np.testing.assert_allclose(dm.Euler()(denoise, x, sigmas, jax.random.key(0)), 2.0, rtol=1e-6)
