"""Laws of preconditioning and loss."""

import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import diffusion as dm
from diffusion.denoiser import Preconditioning

SIGMA = jnp.array([0.01, 0.3, 1.0, 20.0, 100.0])
PRECONDITIONINGS = [kind() for kind in typing.get_args(Preconditioning)]


def toy_network(params, x, c_noise, *, dropout_key=None, label=None):
    return jnp.tanh(params["w"] * x) + 1e-3 * c_noise[:, None]


@pytest.fixture(scope="module")
def data():
    keys = jax.random.split(jax.random.key(0), 2)
    return jax.random.normal(keys[0], (5, 4)), jax.random.normal(keys[1], (5, 4))


def test_edm_keeps_input_and_target_at_unit_variance():
    sigma_data = 0.7
    c_skip, c_out, c_in, _ = dm.EDM(sigma_data)(SIGMA)
    np.testing.assert_allclose(c_in**2 * (SIGMA**2 + sigma_data**2), 1.0, rtol=1e-5)
    # Var[(x_0 - c_skip x_t) / c_out] for independent x_0 and noise
    variance = ((1 - c_skip) ** 2 * sigma_data**2 + (c_skip * SIGMA) ** 2) / c_out**2
    np.testing.assert_allclose(variance, 1.0, rtol=1e-4)


def test_eps_target_is_the_noise(data):
    x_0, eps = data
    c_skip, c_out, _, _ = dm.Eps()(SIGMA)
    x_t = x_0 + SIGMA[:, None] * eps
    target = (x_0 - c_skip[:, None] * x_t) / c_out[:, None]
    # x_0 - x_t loses |x_0| / sigma units of 6e-8 at the smallest sigma
    np.testing.assert_allclose(target, eps, atol=1e-4)


def test_eps_scales_the_input_to_the_vp_chain_and_passes_the_timestep():
    chain = dm.VPLinear()
    sigma = jnp.asarray(chain.table[[0, 500, 999]], jnp.float32)
    _, _, c_in, c_noise = dm.Eps(chain)(sigma)
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[[0, 500, 999]]
    np.testing.assert_allclose(c_in, np.sqrt(alpha_bar), rtol=1e-5)
    np.testing.assert_allclose(c_noise, [0, 500, 999], atol=1e-2)


@pytest.mark.parametrize("preconditioning", PRECONDITIONINGS)
def test_loss_is_the_denoising_error_over_c_out_squared(preconditioning, data):
    x_0, eps = data
    params = {"w": jnp.array(0.5)}
    denoise = dm.denoiser(toy_network, params, preconditioning)
    error = jnp.square(denoise(x_0 + SIGMA[:, None] * eps, SIGMA) - x_0).mean(1)
    expected = error / preconditioning(SIGMA).c_out ** 2
    got = dm.loss(toy_network, params, preconditioning, x_0, SIGMA, eps)
    # both sides subtract numbers of size sigma from each other; relative to them 1e-6
    np.testing.assert_allclose(got, expected, rtol=2e-3)


def test_eps_loss_is_ddpms_l_simple(data):
    x_0, eps = data
    params = {"w": jnp.array(0.5)}
    alpha_bar = 1 / (1 + SIGMA**2)
    x_vp = jnp.sqrt(alpha_bar)[:, None] * x_0 + jnp.sqrt(1 - alpha_bar)[:, None] * eps
    eps_hat = toy_network(params, x_vp, dm.VPLinear().timestep(SIGMA))
    l_simple = jnp.square(eps - eps_hat).mean(1)
    got = dm.loss(toy_network, params, dm.Eps(), x_0, SIGMA, eps)
    np.testing.assert_allclose(got, l_simple, rtol=1e-3)


def test_edm_loss_of_a_zero_network_is_one_on_data_of_its_variance():
    keys = jax.random.split(jax.random.key(0), 3)
    x_0 = 0.5 * jax.random.normal(keys[0], (2000, 50))
    sigma = dm.LogNormal()(keys[1], (2000,))
    eps = jax.random.normal(keys[2], x_0.shape)
    losses = dm.loss(lambda p, x, c: jnp.zeros_like(x), {}, dm.EDM(0.5), x_0, sigma, eps)
    # 1e5 squares of unit normals: standard error sqrt(2 / 1e5) = 0.0045
    np.testing.assert_allclose(losses.mean(), 1.0, atol=0.02)


def test_loss_of_the_oracle_equals_its_closed_form():
    s = 0.5

    def oracle(params, x, c_noise):
        """The network that makes D the posterior mean of N(0, s^2) data under EDM(0.7)."""
        sigma = jnp.exp(4 * c_noise)
        c_skip, c_out, c_in, _ = (c[:, None] for c in dm.EDM(0.7)(sigma))
        x_t, sigma = x / c_in, sigma[:, None]
        return (x_t * s**2 / (s**2 + sigma**2) - c_skip * x_t) / c_out

    keys = jax.random.split(jax.random.key(1), 2)
    x_0 = s * jax.random.normal(keys[0], (2, 100_000))
    eps = jax.random.normal(keys[1], x_0.shape)
    sigma = jnp.array([0.4, 2.0])
    got = dm.loss(oracle, {}, dm.EDM(0.7), x_0, sigma, eps)
    posterior_variance = s**2 * sigma**2 / (s**2 + sigma**2)
    expected = posterior_variance / dm.EDM(0.7)(sigma).c_out ** 2
    np.testing.assert_allclose(got, expected, rtol=0.02)  # 1e5 squares: standard error 0.0045


def test_weighting_multiplies_the_loss(data):
    x_0, eps = data
    params = {"w": jnp.array(0.5)}
    plain = dm.loss(toy_network, params, dm.EDM(), x_0, SIGMA, eps)
    weighted = dm.loss(
        toy_network,
        params,
        dm.EDM(),
        x_0,
        SIGMA,
        eps,
        weighting=lambda sigma, c_out: jnp.sqrt(sigma),
    )
    np.testing.assert_allclose(weighted, plain * jnp.sqrt(SIGMA), rtol=1e-6)


def test_sigma_may_be_one_number_for_all_images(data):
    x_t, _ = data
    denoise = dm.denoiser(toy_network, {"w": jnp.array(0.5)}, dm.EDM())
    one, each = denoise(x_t, jnp.float32(2.0)), denoise(x_t, jnp.full(5, 2.0))
    np.testing.assert_array_equal(one, each)


def test_edm_refuses_a_sigma_data_of_zero():
    with pytest.raises(ValueError, match="sigma_data"):
        dm.EDM(0.0)


def test_v_is_the_vp_chains_velocity(data):
    # Salimans & Ho 2022, appendix D: v = alpha eps - sigma_vp x_0
    x_0, eps = data
    alpha = 1 / jnp.sqrt(1 + SIGMA**2)[:, None]
    v = alpha * eps - jnp.sqrt(1 - alpha**2) * x_0
    np.testing.assert_allclose(target(dm.V(), x_0, eps), v, atol=1e-3)


def test_velocity_is_the_slope_of_the_straight_path(data):
    x_0, eps = data
    np.testing.assert_allclose(target(dm.Velocity(), x_0, eps), eps - x_0, atol=1e-3)
    t = SIGMA / (1 + SIGMA)
    _, _, c_in, c_noise = dm.Velocity()(SIGMA)
    np.testing.assert_allclose(c_noise, 1000 * t, rtol=1e-5)
    z_t = (1 - t)[:, None] * x_0 + t[:, None] * eps
    np.testing.assert_allclose(c_in[:, None] * (x_0 + SIGMA[:, None] * eps), z_t, atol=1e-4)


def test_score_times_sigma_is_minus_the_noise(data):
    x_0, eps = data
    np.testing.assert_allclose(target(dm.Score(), x_0, eps), -eps, atol=1e-3)


def test_x_0_is_the_image(data):
    x_0, eps = data
    np.testing.assert_allclose(target(dm.X0(), x_0, eps), x_0, atol=1e-5)


def target(preconditioning, x_0, eps):
    """The raw output for which the estimate is x_0."""
    c_skip, c_out, _, _ = preconditioning(SIGMA)
    x_t = x_0 + SIGMA[:, None] * eps
    return (x_0 - c_skip[:, None] * x_t) / c_out[:, None]


@pytest.mark.parametrize("preconditioning", PRECONDITIONINGS)
def test_a_network_that_equals_the_target_recovers_the_image(preconditioning, data):
    x_0, eps = data
    x_t = x_0 + SIGMA[:, None] * eps
    denoise = dm.denoiser(
        lambda params, x, c_noise: params, target(preconditioning, x_0, eps), preconditioning
    )
    # x_0 is a difference of numbers of size sigma = 100, held to 6e-8 of that
    np.testing.assert_allclose(denoise(x_t, SIGMA), x_0, atol=1e-4)


def weight_of(weighting, preconditioning):
    return weighting(SIGMA, preconditioning(SIGMA).c_out)


SNR = 1 / SIGMA**2


@pytest.mark.parametrize(
    ("weighting", "on_x_0"),
    [
        (dm.EDMWeighting(0.7), (SIGMA**2 + 0.7**2) / (SIGMA * 0.7) ** 2),
        (dm.MinSNR(5.0), jnp.minimum(SNR, 5.0)),
        (dm.MinSNR(5.0, is_soft=True), SNR * 5.0 / (SNR + 5.0)),
        (dm.P2(gamma=0.5, k=2.0), SNR / (2.0 + SNR) ** 0.5),
        (dm.Sigmoid(bias=-1.0), SNR / (1 + jnp.exp(1.0 + jnp.log(SNR)))),
    ],
)
@pytest.mark.parametrize("preconditioning", PRECONDITIONINGS)
def test_a_weighting_weighs_the_same_error_of_x_0_whatever_the_target(
    weighting, on_x_0, preconditioning, data
):
    x_0, eps = data
    params = {"w": jnp.array(0.5)}
    denoise = dm.denoiser(toy_network, params, preconditioning)
    error = jnp.square(denoise(x_0 + SIGMA[:, None] * eps, SIGMA) - x_0).mean(1)
    got = dm.loss(toy_network, params, preconditioning, x_0, SIGMA, eps, weighting=weighting)
    np.testing.assert_allclose(got, on_x_0 * error, rtol=2e-3)


def test_uncertainty_learns_the_logarithm_of_the_loss_at_each_noise_level():
    balance, log_sigma = dm.Uncertainty(num_features=64), jnp.linspace(-3.0, 3.0, 64)
    sigma, losses = jnp.exp(log_sigma), jnp.exp(jnp.sin(log_sigma) - 1)
    learned, optimizer = balance.init(), optax.adam(0.1)
    np.testing.assert_allclose(balance(learned, sigma, losses), losses)  # starts as the identity
    state = optimizer.init(learned)

    @jax.jit
    def step(learned, state):
        grads = jax.grad(lambda learned: balance(learned, sigma, losses).mean())(learned)
        updates, state = optimizer.update(grads, state)
        return optax.apply_updates(learned, updates), state

    for _ in range(500):
        learned, state = step(learned, state)
    np.testing.assert_allclose(balance.log_loss(learned, sigma), jnp.log(losses), atol=0.05)


def test_min_snr_has_its_known_form_for_each_target():
    # diffusers#5654: eps min(snr, g) / snr, x_0 min(snr, g), v min(snr, g) / (snr + 1)
    bounded = jnp.minimum(SNR, 5.0)
    for preconditioning, expected in (
        (dm.Eps(), bounded / SNR),
        (dm.X0(), bounded),
        (dm.V(), bounded / (SNR + 1)),
    ):
        np.testing.assert_allclose(weight_of(dm.MinSNR(), preconditioning), expected, rtol=1e-5)


def test_p2_without_strength_is_l_simple_and_edms_weighting_is_simple_for_its_own_target():
    np.testing.assert_allclose(weight_of(dm.P2(gamma=0.0), dm.Eps()), 1.0, rtol=1e-5)
    np.testing.assert_allclose(weight_of(dm.EDMWeighting(0.5), dm.EDM(0.5)), 1.0, rtol=1e-5)


@pytest.mark.parametrize(
    "make", [lambda: dm.MinSNR(0.0), lambda: dm.P2(-1.0), lambda: dm.P2(k=0.0)]
)
def test_impossible_weightings_are_refused(make):
    with pytest.raises(ValueError):
        make()
