"""Laws of training a variance: L_hybrid, the bound that it holds, and the recipe's fields."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import diffusion as dm
from configs import Adam, Recipe, Run, Sampling
from diffusion.data import Digits
from diffusion.sampling.unit_noise import unit_noise
from unet_flax import EDM2Config, UNetConfig

CHAIN = dm.VPLinear(num_timesteps=10, beta_start=0.01, beta_end=0.6)
LEARNED = dm.LearnedVariance(CHAIN)
KEY = jax.random.key(0)
STD = 0.5  # of the data N(0, STD^2) of the exact mean


def eps_hat(x, c_noise):
    """The exact prediction of the noise, for images of Gaussian values."""
    sigma = jnp.asarray(CHAIN.table, jnp.float32)[jnp.round(c_noise).astype(int)]
    sigma = sigma.reshape(-1, *[1] * (x.ndim - 1))
    x_t = x * jnp.sqrt(1 + sigma**2)
    return x_t * sigma / (STD**2 + sigma**2)


def network(params, x, c_noise, *, dropout_key=None):
    """Predicts params["gain"] times the exact noise, and v of each timestep by params["v"]."""
    v = params["v"][jnp.round(c_noise).astype(int)].reshape(-1, *[1] * (x.ndim - 1))
    F = params["gain"] * eps_hat(x, c_noise)
    return jnp.concatenate([F, jnp.broadcast_to(v, x.shape)], axis=-1)


def mean_network(params, x, c_noise, *, dropout_key=None):
    return params["gain"] * eps_hat(x, c_noise)


def parameters():
    return {"gain": jnp.float32(0.9), "v": jnp.linspace(-0.8, 0.9, 10)}


def losses(params, x_0, sigma, eps, variance=LEARNED, network=network):
    return dm.loss(network, params, dm.Eps(CHAIN), x_0, sigma, eps, variance=variance)


def sigma_of(timestep, count):
    return jnp.full(count, CHAIN.table[timestep], jnp.float32)


@pytest.fixture(scope="module")
def pixels():
    image = STD * np.random.default_rng(0).standard_normal((6, 4, 4, 2))
    return jnp.asarray(np.clip(np.round((image + 1) * 127.5), 0, 255), jnp.uint8)


def test_the_bound_is_the_one_that_likelihood_measures(pixels):
    params, image = parameters(), pixels / jnp.float32(127.5) - 1
    grid = dm.VPTimesteps(CHAIN)(10)
    denoise = dm.denoiser(network, params, dm.Eps(CHAIN))
    whole = dm.variational_bound(denoise, pixels, grid, KEY, interpolation=None)
    alone = dataclasses.replace(LEARNED, bound_alone=True)
    costs = [
        losses(params, image, jnp.full(6, grid[i]), unit_noise(KEY, i, image), alone)
        for i in range(10)
    ]
    np.testing.assert_allclose(jnp.stack(costs[:-1]).mean(0) * 9 / 10, whole.steps, rtol=1e-4)
    np.testing.assert_allclose(costs[-1] / 10, whole.decoder, rtol=1e-4)


def test_l_hybrid_is_l_simple_and_the_weighted_bound(pixels):
    params, image = parameters(), pixels / jnp.float32(127.5) - 1
    eps, sigma = unit_noise(KEY, 0, image), sigma_of(3, 6)
    simple = losses(params, image, sigma, eps, dm.FixedVariance(), mean_network)
    bound = losses(params, image, sigma, eps, dataclasses.replace(LEARNED, bound_alone=True))
    hybrid = losses(params, image, sigma, eps, dataclasses.replace(LEARNED, weight=0.1))
    np.testing.assert_allclose(hybrid, simple + 0.1 * bound, rtol=1e-6)


def test_the_bound_moves_the_variance_and_only_alone_the_mean(pixels):
    params, image = parameters(), pixels / jnp.float32(127.5) - 1
    eps = unit_noise(KEY, 0, image)
    sigma = jnp.asarray(CHAIN.table[:6], jnp.float32)  # the decoder's among them

    def gradient(variance, network=network):
        total = lambda p: losses(p, image, sigma, eps, variance, network).sum()  # noqa: E731
        return jax.grad(total)(params)

    simple, hybrid = gradient(dm.FixedVariance(), mean_network), gradient(LEARNED)
    alone = gradient(dataclasses.replace(LEARNED, bound_alone=True))
    np.testing.assert_allclose(hybrid["gain"], simple["gain"], rtol=1e-5)
    assert (hybrid["v"][:6] != 0).all() and not simple["v"].any()
    np.testing.assert_allclose(hybrid["v"], LEARNED.weight * alone["v"], rtol=1e-5)
    assert alone["gain"] != 0


@pytest.mark.parametrize("v", [-3.0, 0.0, 3.0])
@pytest.mark.parametrize("schedule", [dm.VPLinear(), dm.VPCosine()])
def test_gradients_are_finite_on_the_whole_chain(v, schedule):
    def total(both, x_0, sigma, eps):
        output = lambda p, x, c: jnp.concatenate([p[0] * x, p[1] + 0 * x], -1)  # noqa: E731
        variance = dm.LearnedVariance(schedule, 1000 if schedule == dm.VPCosine() else None)
        return dm.loss(output, both, dm.Eps(schedule), x_0, sigma, eps, variance=variance).sum()

    sigma = jnp.geomspace(schedule.sigma_min, schedule.sigma_max, 8).astype(jnp.float32)
    x_0 = jnp.broadcast_to(jnp.linspace(-1, 1, 5), (8, 5))
    value, slopes = jax.value_and_grad(total)((1.0, v), x_0, sigma, unit_noise(KEY, 0, x_0))
    assert np.isfinite([value, *slopes]).all()


def optimal(timestep):
    """The interpolation at which the step's variance is the true one."""
    sigma, sigma_next = CHAIN.table[timestep], CHAIN.table[timestep - 1]
    r, x_0_variance = (sigma_next / sigma) ** 2, STD**2 * sigma**2 / (STD**2 + sigma**2)
    small = sigma_next**2 * (1 - r)
    large = (1 + sigma_next**2) * (sigma**2 - sigma_next**2) / (1 + sigma**2)
    return np.log1p((1 - r) ** 2 * x_0_variance / small) / np.log(large / small)


def test_training_finds_the_true_variance_and_with_it_ten_steps_sample_exactly():
    optimizer, ema = optax.adam(0.02), dm.EMA(0.9)
    variance = dataclasses.replace(LEARNED, weight=1.0)
    train_step = dm.make_train_step(
        network, dm.Eps(CHAIN), dm.UniformTime(CHAIN), optimizer, ema, variance=variance
    )
    params = parameters() | {"gain": jnp.float32(1.0)}
    state = dm.TrainState.create(params, optimizer, ema)
    for step in range(300):
        image = STD * np.random.default_rng(step).standard_normal((64, 32, 1), np.float32)
        state, metrics = train_step(state, {"image": image}, KEY)
    assert metrics["skipped"] == 0
    found = np.asarray(state.params["v"][1:] + 1) / 2
    # Adam moves v by its rate of 0.02 at most, i by half of that, around the optimum
    np.testing.assert_allclose(found, [optimal(t) for t in range(1, 10)], atol=0.05)
    assert ((found >= 0) & (found <= 1)).all()

    sigmas = dm.VPTimesteps(CHAIN)(10)
    x_T = jnp.sqrt(sigmas[0] ** 2 + STD**2) * jax.random.normal(KEY, (50_000, 1, 1))
    params = state.params | {"gain": jnp.float32(1.0)}
    denoise = dm.denoiser(network, params, dm.Eps(CHAIN))
    x_0 = dm.Ancestral(None)(denoise, x_T, sigmas, jax.random.key(1))
    expected = STD**2 / np.sqrt(STD**2 + CHAIN.table[0] ** 2)  # the last step returns the estimate
    # an i wrong by 0.05 changes a step's variance by some 2 %
    assert float(x_0.std()) == pytest.approx(expected, rel=0.02)
    assert abs(float(dm.Ancestral(0.0)(denoise, x_T, sigmas, KEY).std()) / expected - 1) > 0.05


def test_the_table_is_the_chains_and_even_on_other_schedules():
    np.testing.assert_allclose(dm.LearnedVariance().table, dm.VPLinear().table, rtol=1e-9)
    cosine = dm.VPCosine()
    grid = dm.Even(cosine)(50)[:-1][::-1]
    table = dm.LearnedVariance(cosine, 50).table
    np.testing.assert_allclose(table, grid, rtol=1e-6)
    traced = jax.jit(lambda: jnp.asarray(dm.LearnedVariance(cosine, 50).table, jnp.float32))()
    np.testing.assert_array_equal(traced, table.astype(np.float32))


def test_a_network_that_does_not_fit_the_variance_is_refused_by_name():
    x_0 = jnp.zeros((2, 4, 3))
    for variance, own, says in (
        (dm.FixedVariance(), network, "predicts 6 channels.*FixedVariance needs 3.*Learned"),
        (LEARNED, mean_network, "predicts 3 channels.*LearnedVariance needs 6.*FixedVariance"),
    ):
        with pytest.raises(ValueError, match=says):
            losses(parameters(), x_0, sigma_of(3, 2), x_0, variance, own)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: dm.LearnedVariance(dm.VPCosine()), "num_timesteps=None, but VPCosine"),
        (lambda: dm.LearnedVariance(CHAIN, 20), "num_timesteps=20, but the chain has 10"),
        (lambda: dm.LearnedVariance(CHAIN, 5), "num_timesteps=5, but the chain has 10"),
        (lambda: dm.LearnedVariance(weight=-1.0), "weight=-1.0"),
        (lambda: dm.LearnedVariance(num_timesteps=1), "num_timesteps=1"),
    ],
)
def test_impossible_settings_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()


UNET = UNetConfig(None, None, 8, (1,), attention_resolutions=(), num_groups=4)
DDPM = dict(
    run=Run(num_steps=4),
    data=Digits(8, labelled=False),
    model=UNET,
    optimizer=Adam(1e-3),
    schedule=dm.VPLinear(),
    preconditioning=dm.Eps(),
    noise=dm.UniformTime(),
)


def test_the_recipe_gives_the_variance_its_schedule_and_the_network_its_outputs():
    resolved = Recipe(**DDPM, variance=dm.LearnedVariance()).resolved()
    assert resolved.variance.schedule == dm.VPLinear()
    assert resolved.model.output_channels == 2 and resolved.resolved() == resolved
    assert Recipe(**DDPM).resolved().model.output_channels == 1


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (dict(sampling=Sampling(dm.Ancestral(None))), "takes a learned variance"),
        (dict(model=dataclasses.replace(UNET, out_channels=2)), "out_channels=2.*LearnedVariance"),
        (
            dict(
                model=dataclasses.replace(UNET, out_channels=1),
                variance=dm.LearnedVariance(),
            ),
            "out_channels=1.*LearnedVariance needs 2 outputs",
        ),
        (
            dict(
                model=EDM2Config(None, None, 8, (1,), attention_resolutions=(), head_dim=8),
                variance=dm.LearnedVariance(),
            ),
            "out_channels=1.*LearnedVariance needs 2 outputs",
        ),
        (dict(schedule=dm.VPCosine(), variance=dm.LearnedVariance()), "num_timesteps=None"),
        (dict(variance=dm.LearnedVariance(dm.VE(), 10)), "contradicts the recipe's schedule"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(changes, says):
    with pytest.raises(ValueError, match=says):
        Recipe(**DDPM | changes)
