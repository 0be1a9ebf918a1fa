"""Laws of null-text inversion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion as dm

KEY = jax.random.key(0)
STD = 0.3
TO_IMAGE = np.random.default_rng(0).normal(size=(8, 16)).astype(np.float32) / np.sqrt(8)
TEXT, NULL = jax.random.normal(KEY, (2, 8)) * jnp.array([[1.0], [0.3]])
SIGNS = jnp.array([1.0, -1.0])[:, None, None, None]


def mean_of(text):
    return jnp.tanh(text @ TO_IMAGE).reshape(1, 4, 4, 1)


def make(text):
    """The exact denoiser of two Gaussians, around mean_of(text) and around its negative."""

    def denoise(x_t, sigma):
        variance = STD**2 + sigma**2
        side = jnp.tanh((x_t * mean_of(text)).sum((1, 2, 3), keepdims=True) / variance)
        centre = side * mean_of(text)
        return centre + STD**2 / variance * (x_t - centre)

    return denoise


IMAGE = SIGNS * mean_of(TEXT) + STD * jax.random.normal(jax.random.key(1), (2, 4, 4, 1))
COND, SCALE = make(TEXT), 7.5


def grid(num_steps):
    return dm.Karras(sigma_min=0.02, sigma_max=20.0)(num_steps)


def inverted(sigmas, **options):
    return dm.null_text_invert(COND, make, NULL, IMAGE, sigmas, **options)


def drawn(x_T, uncond, sigmas):
    return dm.Euler()(dm.classifier_free(COND, uncond, SCALE), x_T, sigmas, KEY)


def error(found):
    return float(jnp.sqrt(jnp.square(found - IMAGE).mean()))


def test_guidance_draws_the_image_again_which_ddim_inversion_does_not():
    sigmas = grid(50)
    x_T, uncond = inverted(sigmas)
    np.testing.assert_allclose(x_T, dm.invert(COND, IMAGE, sigmas), rtol=1e-5)
    guided = error(drawn(x_T, make(NULL), sigmas))
    found = error(drawn(x_T, uncond, sigmas))
    assert guided > 1.0 and found < guided / 50


def test_more_steps_of_adam_come_closer():
    sigmas = grid(20)
    errors = [error(drawn(*inverted(sigmas, num_inner=n), sigmas)) for n in (0, 3, 10, 30)]
    assert errors == sorted(errors, reverse=True) and errors[-1] < errors[0] / 20


def test_without_steps_of_adam_it_is_ddim_inversion():
    sigmas = grid(10)
    x_T, uncond = inverted(sigmas, num_inner=0)
    np.testing.assert_array_equal(uncond.nulls, jnp.broadcast_to(NULL, (10, 8)))
    plain = drawn(x_T, make(NULL), sigmas)
    # float32 of an x of size 20 in another order
    np.testing.assert_allclose(drawn(x_T, uncond, sigmas), plain, atol=2e-5)


def papers_losses(null, x_T, sigmas):
    """Of the first step, one for each image, in the notation of DDIM: z = sqrt(alpha_bar) x."""
    alpha_bar, alpha_bar_next = 1 / (1 + sigmas[:2] ** 2)
    # the pivot after the first step: inversion that ends one sigma earlier
    pivot = dm.invert(COND, IMAGE, sigmas[1:]) * jnp.sqrt(alpha_bar_next)
    z = x_T * jnp.sqrt(alpha_bar)

    def eps(denoise):
        return (x_T - denoise(x_T, sigmas[0])) / sigmas[0]

    guided = eps(make(null)) + SCALE * (eps(COND) - eps(make(null)))
    z_0 = (z - jnp.sqrt(1 - alpha_bar) * guided) / jnp.sqrt(alpha_bar)
    z_next = jnp.sqrt(alpha_bar_next) * z_0 + jnp.sqrt(1 - alpha_bar_next) * guided
    return jnp.square(z_next - pivot).mean((1, 2, 3))


def test_adams_first_step_has_the_sign_of_the_papers_gradient():
    sigmas = grid(5)
    x_T, uncond = inverted(sigmas, num_inner=1, learning_rate=0.01)
    gradient = jax.grad(lambda null: papers_losses(null, x_T, sigmas).sum())(NULL)
    np.testing.assert_allclose(uncond.nulls[0] - NULL, -0.01 * jnp.sign(gradient), rtol=1e-2)


def test_adam_stops_after_the_step_at_which_every_image_was_within_the_tolerance():
    sigmas = grid(5)
    x_T, once = inverted(sigmas, num_inner=1)
    worst = float(papers_losses(NULL, x_T, sigmas).max())
    for tolerance, stops in ((1.01 * worst, True), (0.99 * worst, False)):
        _, uncond = inverted(sigmas, tolerance=tolerance)
        assert bool((uncond.nulls[0] == once.nulls[0]).all()) == stops


def test_the_learning_rate_falls_to_half():
    _, uncond = inverted(grid(10), num_inner=1, learning_rate=0.01)
    moved = jnp.diff(uncond.nulls, axis=0, prepend=NULL[None])
    falling = jnp.broadcast_to(0.01 * (1 - jnp.arange(10.0) / 20)[:, None], moved.shape)
    np.testing.assert_allclose(jnp.abs(moved)[:5], falling[:5], rtol=1e-2)


def test_another_text_moves_the_image_as_it_moves_every_sample():
    """Of Gaussians around the texts' means each step is linear, so the image drops out."""

    def gaussian(text):
        def denoise(x_t, sigma):
            variance = STD**2 + sigma**2
            return (STD**2 * x_t + sigma**2 * mean_of(text)) / variance

        return denoise

    sigmas, other = grid(20), NULL
    cond, edit = gaussian(TEXT), gaussian(other)
    x_T, uncond = dm.null_text_invert(cond, gaussian, NULL, IMAGE, sigmas)
    again, edited = (
        dm.Euler()(dm.classifier_free(one, uncond, SCALE), x_T, sigmas, KEY) for one in (cond, edit)
    )
    shift = jnp.zeros_like(mean_of(other))
    for sigma, sigma_next in zip(sigmas[:-1], sigmas[1:], strict=True):
        gain = STD**2 / (STD**2 + sigma**2)
        change = gain * shift + (1 - gain) * SCALE * (mean_of(other) - mean_of(TEXT))
        shift = change + sigma_next / sigma * (shift - change)
    # float32 rounds x of size 100, where guidance leads it, to 1e-5 at every step
    expected = jnp.broadcast_to(shift, IMAGE.shape)
    np.testing.assert_allclose(edited - again, expected, atol=2e-4)
    assert jnp.abs(shift).mean() > 1.0


def test_new_numbers_and_weights_compile_nothing():
    traces = []

    def weighted(weight, null):
        def denoise(x_t, sigma):
            traces.append(1)
            return make(weight * null)(x_t, sigma)

        return denoise

    def run(weight=1.0, **options):
        make_uncond = jax.tree_util.Partial(weighted, jnp.float32(weight))
        dm.null_text_invert(COND, make_uncond, NULL, IMAGE, grid(4), **options)

    run()
    compiled = len(traces)
    run(0.9)
    run(scale=3.0, num_inner=2, learning_rate=0.1, tolerance=1e-3)
    assert len(traces) == compiled > 0


@pytest.mark.parametrize(
    ("make_mistake", "says"),
    [
        (lambda: inverted(grid(4), num_inner=-1), "num_inner=-1"),
        (lambda: inverted(grid(4), scale=float("nan")), "scale=nan"),
        (lambda: inverted(grid(1)), "1 sigma above 0"),
        (lambda: inverted(grid(4))[1](IMAGE, jnp.ones(2)), "one sigma for the batch"),
    ],
)
def test_what_makes_no_sense_is_refused(make_mistake, says):
    with pytest.raises(ValueError, match=says):
        make_mistake()
