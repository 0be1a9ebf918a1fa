"""Laws of editing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import correlated
from sampler_table import CAN_INVERT, RungeKutta2

import diffusion as dm

KEY = jax.random.key(0)
IMAGE = jnp.linspace(-0.9, 0.9, 2 * 4 * 4 * 1).reshape(2, 4, 4, 1)
REDRAWN = jnp.zeros((4, 4), bool).at[2:].set(True)


def smooth(x_t, sigma):
    """Some denoiser of images."""
    sigma = jnp.broadcast_to(sigma, x_t.shape[:1])[:, None, None, None]
    return (0.25 * x_t + 0.1 * sigma**2 + 0.05 * jnp.roll(x_t, 1, axis=1)) / (0.25 + sigma**2)


REPAINTS = [
    dm.RePaint(dm.Heun(), num_resample=3),
    dm.RePaint(dm.Ancestral(), num_resample=2, jump_length=3),
]


SAMPLERS = [dm.Euler(), dm.Heun(churn=20.0), dm.UniPC(2), dm.RK45(), *REPAINTS]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_what_the_mask_keeps_is_returned_exactly(sampler):
    x_T = 80.0 * jax.random.normal(KEY, IMAGE.shape)
    # values that rounding would show in
    image = jax.random.uniform(jax.random.key(1), IMAGE.shape, minval=-1.0, maxval=1.0)
    x_0 = sampler(dm.inpaint(smooth, image, REDRAWN), x_T, dm.Karras()(10), KEY)
    np.testing.assert_array_equal(x_0[:, :2], image[:, :2])
    assert jnp.abs(x_0[:, 2:] - image[:, 2:]).min() > 1e-4


def test_what_lies_under_the_mask_does_not_matter():
    other = jnp.where(REDRAWN[None, :, :, None], 0.7, IMAGE)
    x_T = 80.0 * jax.random.normal(KEY, IMAGE.shape)
    first, second = (
        dm.Heun()(dm.inpaint(smooth, image, REDRAWN), x_T, dm.Karras()(6), KEY)
        for image in (IMAGE, other)
    )
    np.testing.assert_array_equal(first, second)


RHO = 0.9


def pair(x_t, sigma):
    """The exact denoiser of two values of unit variance and correlation RHO, as 1 x 2 images."""
    return correlated(x_t.reshape(-1, 2), sigma, RHO).reshape(x_t.shape)


def test_repainting_draws_from_the_conditional_distribution():
    # of a second value given that the first is 1: N(RHO, 1 - RHO^2)
    known, redrawn = jnp.ones((1, 2, 1)), jnp.array([[False, True]])
    x_T = 20.0 * jax.random.normal(KEY, (5_000, 1, 2, 1))
    sigmas = dm.Karras(sigma_min=0.01, sigma_max=20.0)(40)
    denoise = dm.inpaint(pair, known, redrawn)
    plain = dm.Ancestral(0.0)(denoise, x_T, sigmas, KEY)[:, 0, 1, 0]
    resampled = dm.RePaint(dm.Ancestral(0.0), 20)(denoise, x_T, sigmas, KEY)[:, 0, 1, 0]
    # standard error of the mean 0.006; 40 steps of 20 repeats leave some percent
    assert float(resampled.mean()) == pytest.approx(RHO, abs=0.04)
    assert float(resampled.std()) == pytest.approx(np.sqrt(1 - RHO**2), rel=0.15)
    assert abs(float(plain.mean()) - RHO) > 2 * abs(float(resampled.mean()) - RHO)


@pytest.mark.parametrize("num_steps", [1, 6, 7])
@pytest.mark.parametrize("jump_length", [1, 3, 10])
@pytest.mark.parametrize("num_resample", [1, 4])
def test_repaint_runs_every_stretch_so_often_and_never_leaves_the_finished_image(
    num_steps, jump_length, num_resample
):
    sampler = dm.RePaint(dm.Euler(), num_resample, jump_length)
    sigmas = dm.Karras()(num_steps)
    path = np.asarray(sampler.path(sigmas))
    np.testing.assert_array_equal([path[0], path[-1]], sigmas[jnp.array([0, -1])])
    assert (path == 0).sum() == 1
    steps_down = (np.diff(path) < 0).sum()
    assert steps_down == sampler.nfe(num_steps)
    whole_stretches = (num_steps - 1) // jump_length
    assert (np.diff(path) > 0).sum() == whole_stretches * (num_resample - 1)


@pytest.mark.parametrize("sampler", [dm.Heun(churn=5.0), RungeKutta2()], ids=repr)
def test_repaint_once_is_its_sampler(sampler):
    x_T = 80.0 * jax.random.normal(KEY, IMAGE.shape)
    once = dm.RePaint(sampler, num_resample=1)(smooth, x_T, dm.Karras()(6), KEY)
    plain = sampler(smooth, x_T, dm.Karras()(6), KEY)
    np.testing.assert_allclose(once, plain, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("sampler", CAN_INVERT, ids=repr)
def test_inversion_comes_back_with_the_samplers_order_at_least(sampler):
    errors = []
    for num_steps in (20, 40, 80):
        sigmas = dm.Karras(sigma_min=0.01, sigma_max=20.0)(num_steps)
        with jax.enable_x64(True):
            image, sigmas = (jnp.asarray(x, jnp.float64) for x in (IMAGE, sigmas))
            x_T = dm.invert(smooth, image, sigmas, sampler)
            # to the last sigma above 0, where inversion began
            back = sampler(smooth, x_T, sigmas[:-1], KEY)
            errors.append(float(jnp.abs(back - image).mean()))
    order = np.log2(np.array(errors[:-1]) / np.array(errors[1:]))
    # or better: going up and down, part of a second-order error cancels
    assert order[-1] > sampler.order - 0.4


def test_inversion_gives_noise_of_the_first_sigma():
    image = 0.5 * jax.random.normal(KEY, (64, 4, 4, 1))
    x_T = dm.invert(lambda x, sigma: x * 0.25 / (0.25 + sigma**2), image, dm.Karras()(50))
    assert float(x_T.std()) == pytest.approx(80.0, rel=0.1)


def test_strength_says_how_many_steps_are_left():
    sigmas, eps = dm.Karras()(10), jnp.ones_like(IMAGE)
    for strength, left in ((1.0, 10), (0.6, 6), (0.01, 1)):
        x_t, rest = dm.begin_from(IMAGE, eps, sigmas, strength)
        np.testing.assert_array_equal(rest, sigmas[10 - left :])
        np.testing.assert_allclose(x_t, IMAGE + sigmas[10 - left], rtol=1e-6)


def test_less_strength_stays_closer_to_the_image():
    far = []
    for strength in (0.2, 0.5, 1.0):
        x_t, rest = dm.begin_from(
            IMAGE, jax.random.normal(KEY, IMAGE.shape), dm.Karras()(20), strength
        )
        far.append(float(jnp.abs(dm.Heun()(smooth, x_t, rest, KEY) - IMAGE).mean()))
    assert far == sorted(far)


def test_between_unit_noises_all_is_unit_noise():
    a, b = jax.random.normal(KEY, (2, 500, 8, 8, 1))
    middle = dm.slerp(a, b, jnp.full(500, 0.5))
    assert float(middle.std()) == pytest.approx(1.0, abs=0.02)  # standard error 0.004
    np.testing.assert_allclose(dm.slerp(a, b, jnp.zeros(500)), a, atol=1e-5)
    np.testing.assert_allclose(dm.slerp(a, b, jnp.ones(500)), b, atol=1e-5)
    np.testing.assert_allclose(dm.slerp(a, a, jnp.full(500, 0.3)), a, rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: dm.inpaint(smooth, IMAGE, jnp.zeros((3, 4), bool)), "of one size"),
        (
            lambda: dm.inpaint(smooth, IMAGE[0], jnp.zeros((3, 4, 4), bool))(
                jnp.ones((8, 4, 4, 1)), jnp.float32(1)
            ),
            r"the mask is \(3, 4, 4\) .* fits no \(8, 4, 4\) images",
        ),
        (
            lambda: dm.inpaint(smooth, IMAGE, REDRAWN)(jnp.ones((8, 4, 4, 1)), jnp.float32(1)),
            r"the image is \(2, 4, 4\) .* fits no \(8, 4, 4\) images",
        ),
        (
            lambda: dm.inpaint(smooth, IMAGE, REDRAWN)(jnp.ones((2, 8, 8, 1)), jnp.float32(1)),
            r"the mask is \(4, 4\) .* fits no \(2, 8, 8\) images",
        ),
        (lambda: dm.begin_from(IMAGE, IMAGE, dm.Karras()(5), 0.0), "outside"),
        (lambda: dm.begin_from(IMAGE, IMAGE, dm.Karras()(5), 1.5), "outside"),
        (lambda: dm.begin_from(IMAGE, IMAGE, dm.Karras()(5), float("nan")), "outside"),
        (lambda: dm.RePaint(dm.DPMSolver(2)), "DPMSolver has memory .* cannot repeat"),
        (lambda: dm.RePaint(dm.RK45()), "RK45 is adaptive, and cannot repeat"),
        (lambda: dm.RePaint(dm.Heun(), num_resample=0), "outside"),
        (lambda: dm.RePaint(dm.Heun(), jump_length=0), "outside"),
        (lambda: dm.invert(smooth, IMAGE, dm.Karras()(1)), "1 sigma above 0"),
        (lambda: dm.invert(smooth, IMAGE, dm.Karras()(5), dm.UniPC()), "UniPC has memory"),
        (lambda: dm.invert(smooth, IMAGE, dm.Karras()(5), dm.RK45()), "RK45 is adaptive"),
        *(
            (lambda s=s: dm.invert(smooth, IMAGE, dm.Karras()(5), s), "is not deterministic")
            for s in (
                dm.Euler(eta=1.0),
                dm.Heun(churn=1.0),
                dm.Ancestral(),
                dm.RePaint(dm.Euler(), num_resample=1),
            )
        ),
        (
            lambda: dm.super_resolve(smooth, jnp.zeros((3, 3, 1)))(IMAGE, jnp.float32(1)),
            "whole number",
        ),
    ],
)
def test_impossible_edits_are_refused(make, says):
    with pytest.raises(ValueError, match=says):
        make()
