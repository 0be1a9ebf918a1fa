"""Laws of the functions from denoise to denoise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion as dm

X_T, SIGMA = jnp.linspace(-2.0, 2.0, 6).reshape(2, 3), jnp.float32(1.0)


def cond(x_t, sigma):
    return x_t * 3.0


def uncond(x_t, sigma):
    return x_t


@pytest.mark.parametrize(("scale", "factor"), [(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)])
def test_classifier_free_extrapolates_from_uncond_through_cond(scale, factor):
    guided = dm.classifier_free(cond, uncond, scale)
    np.testing.assert_allclose(guided(X_T, SIGMA), factor * X_T, rtol=1e-6)


def test_one_network_under_two_conditions_is_called_once():
    calls = []

    def network(params, x, c_noise, *, label):
        calls.append(x.shape[0])
        return params * x * label[:, None]

    params, label = jnp.float32(2.0), jnp.array([1.0, 3.0])
    good = dm.denoiser(network, params, dm.EDM(), label=label)
    bad = dm.denoiser(network, params, dm.EDM(), label=-label)
    together = dm.classifier_free(good, bad, 1.5)(X_T, SIGMA)
    assert calls == [4]
    apart = dm.classifier_free(lambda x, s: good(x, s), lambda x, s: bad(x, s), 1.5)(X_T, SIGMA)
    assert calls == [4, 2, 2]
    np.testing.assert_allclose(together, apart, rtol=1e-6)


def test_two_networks_are_not_taken_for_one():
    def network(params, x, c_noise):
        return params * x

    strong, weak = (dm.denoiser(network, jnp.float32(p), dm.EDM()) for p in (2.0, 1.0))
    guided = dm.autoguidance(strong, weak, 2.0)(X_T, SIGMA)
    expected = 2 * strong(X_T, SIGMA) - weak(X_T, SIGMA)
    np.testing.assert_allclose(guided, expected, rtol=1e-6)


def test_full_rescaling_gives_each_image_the_spread_of_the_conditional_one():
    guided = dm.classifier_free(cond, uncond, 4.0, rescale=1.0)(X_T, SIGMA)
    np.testing.assert_allclose(guided.std(1), cond(X_T, SIGMA).std(1), rtol=1e-5)
    half = dm.classifier_free(cond, uncond, 4.0, rescale=0.5)(X_T, SIGMA)
    plain = dm.classifier_free(cond, uncond, 4.0)(X_T, SIGMA)
    np.testing.assert_allclose(half, (guided + plain) / 2, rtol=1e-5)


@pytest.mark.parametrize(("sigma", "factor"), [(0.5, 3.0), (1.0, 1.0), (2.0, 1.0), (2.1, 3.0)])
def test_outside_its_interval_guidance_is_off(sigma, factor):
    denoise = dm.in_interval(uncond, cond, 0.5, 2.0)
    np.testing.assert_allclose(denoise(X_T, jnp.float32(sigma)), factor * X_T, rtol=1e-6)
    np.testing.assert_allclose(denoise(X_T, jnp.full(2, sigma)), factor * X_T, rtol=1e-6)
    np.testing.assert_allclose(denoise(X_T, sigma), factor * X_T, rtol=1e-6)


def test_classifier_guidance_samples_the_product_of_two_gaussians():
    # data N(0, 1) and p(y | x_t) of x_0 seen through unit noise: the product has variance 1/2
    y = 1.0

    def denoise(x_t, sigma):
        return x_t / (1 + sigma**2)

    def log_p(x_t, sigma):  # x_0 given x_t has variance sigma^2 / (1 + sigma^2)
        variance = 1 + sigma**2 / (1 + sigma**2)
        return -0.5 * jnp.square(y - denoise(x_t, sigma))[:, 0] / variance

    guided = dm.classifier_guided(denoise, log_p)
    posterior = (X_T[:, :1] / SIGMA**2 + y) / (1 + 1 / SIGMA**2 + 1)
    np.testing.assert_allclose(guided(X_T[:, :1], SIGMA), posterior, rtol=1e-5)


def test_clip_keeps_the_estimate_in_range_and_changes_nothing_else():
    np.testing.assert_allclose(dm.clip(uncond)(X_T, SIGMA), jnp.clip(X_T, -1.0, 1.0))


def test_dynamic_clipping_scales_by_the_quantile_and_never_up():
    x = jnp.stack([jnp.linspace(-4.0, 4.0, 101), jnp.linspace(-0.5, 0.5, 101)])
    clipped = dm.clip_dynamically(uncond, 0.5)(x, SIGMA)
    np.testing.assert_allclose(clipped[0], jnp.clip(x[0] / 2, -1, 1), atol=1e-5)
    np.testing.assert_allclose(clipped[1], x[1])  # within [-1, 1] as it is


@pytest.mark.parametrize(
    "make",
    [
        lambda: dm.in_interval(cond, uncond, 2.0, 1.0),
        lambda: dm.in_interval(cond, uncond, -1.0),
        lambda: dm.clip_dynamically(cond, 0.0),
    ],
)
def test_impossible_settings_are_refused(make):
    with pytest.raises(ValueError):
        make()


@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_a_new_scale_compiles_nothing(scale):
    traces = []

    def network(params, x, c_noise):
        traces.append(1)
        return x

    good, bad = (dm.denoiser(network, jnp.float32(p), dm.EDM()) for p in (1.0, 2.0))

    def run(scale):
        denoise = dm.in_interval(dm.autoguidance(good, bad, scale), good, 0.1, 1.0 + scale)
        denoise = dm.clip_dynamically(denoise, 0.9 + scale / 100)
        return dm.Euler()(denoise, X_T, jnp.array([2.0, 1.0, 0.0]), jax.random.key(0))

    run(2.0)
    before = len(traces)
    run(scale)
    assert len(traces) == before


def test_wrapped_plain_functions_enter_samplers():
    guided = dm.clip(dm.classifier_free(cond, uncond, 1.5))
    x_0 = dm.Heun()(guided, X_T, jnp.array([1.0, 0.5, 0.0]), jax.random.key(0))
    assert jnp.abs(x_0).max() <= 1


def test_guidance_to_image_and_text_is_the_closed_form_in_one_call():
    calls = []

    def network(params, x, c_noise, *, text, condition):
        calls.append(x.shape[0])
        return params * x * text[:, None] + condition[:, None]

    params, text, image = jnp.float32(2.0), jnp.array([1.0, 3.0]), jnp.array([0.5, -0.5])

    def estimate(text, condition):
        return dm.denoiser(network, params, dm.EDM(), text=text, condition=condition)

    both, only_image, neither = (
        estimate(text, image),
        estimate(0 * text, image),
        estimate(0 * text, 0 * image),
    )
    guided = dm.image_and_text_guided(both, only_image, neither, scale=3.0, image_scale=1.5)
    found = guided(X_T, SIGMA)
    assert calls == [6]
    D_both, D_image, D_neither = (denoise(X_T, SIGMA) for denoise in (both, only_image, neither))
    expected = D_neither + 1.5 * (D_image - D_neither) + 3.0 * (D_both - D_image)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    plain = dm.image_and_text_guided(both, only_image, neither, scale=1.0, image_scale=1.0)
    np.testing.assert_allclose(plain(X_T, SIGMA), D_both, rtol=1e-5, atol=1e-6)
