"""Laws of edit-friendly inversion."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import MEAN, STD, mixture, oracle

import diffusion as dm

KEY = jax.random.key(0)
POINTS = jnp.array([[-1.0, 0.4], [0.7, 0.9], [0.2, -0.3]])
SIGMAS = dm.Karras()(12)
SAMPLERS = [
    dm.Euler(eta=0.3),
    dm.Euler(eta=1.0),
    dm.Ancestral(),
    dm.DPMSolverSDE(),
    dm.DPMSolverSDE(max_ratio=float("inf")),  # LEDITS++'s
]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
@pytest.mark.parametrize("skip", [0.0, 0.25, 0.6])
def test_the_same_denoiser_draws_the_image_again(sampler, skip):
    inversion = dm.ddpm_invert(mixture, POINTS, SIGMAS, KEY, sampler=sampler)
    x, sigmas, replay = inversion.begin(skip)
    found = replay(mixture, x, sigmas, jax.random.key(1))
    # two compiled functions may round x of size 80 to 4e-6, and each step divides that
    np.testing.assert_allclose(found, POINTS, atol=2e-5)


@pytest.mark.parametrize("sampler", SAMPLERS, ids=repr)
def test_a_denoiser_of_shifted_data_shifts_the_image(sampler):
    """Both denoisers are linear, so what they have in common, the image's own part, stays."""
    shift = 0.7

    def shifted(x_t, sigma):
        return oracle(x_t - shift, sigma) + shift

    image = MEAN + STD * jax.random.normal(KEY, (200, 1))
    x, sigmas, replay = dm.ddpm_invert(oracle, image, SIGMAS, KEY, sampler=sampler).begin()
    found = replay(shifted, x, sigmas, KEY)
    # the start lacks the shift, of which the ODE keeps STD / 80, and noise less
    np.testing.assert_allclose(found, image + shift, atol=shift * STD / 80)


def test_the_noise_is_larger_than_the_samplers_and_turns_back_what_the_last_did():
    """Of the exact denoiser of one image, with r = (sigma_next / sigma)^2 and s the next sigma:

    shift = s eps_next - r sigma eps, so its variance is s^2 (1 + r), while DDPM's is s^2 (1 - r)
    """
    image = jnp.zeros((20_000, 1))
    shifts = np.asarray(dm.ddpm_invert(lambda x, _: 0 * x, image, SIGMAS, KEY).shifts[:-1, :, 0])
    sigma, s = np.asarray(SIGMAS[:-2]), np.asarray(SIGMAS[1:-1])
    r = (s / sigma) ** 2
    # of 20,000 draws: standard error 0.01
    np.testing.assert_allclose(shifts.var(1) / (s**2 * (1 + r)), 1.0, atol=0.05)
    covariance = (shifts[1:] * shifts[:-1]).mean(1)
    scale = shifts[1:].std(1) * shifts[:-1].std(1)
    np.testing.assert_allclose(covariance / scale, -r[1:] * s[:-1] ** 2 / scale, atol=0.03)


def test_new_numbers_and_shares_compile_nothing():
    traces = []

    def network(params, x, c_noise):
        traces.append(1)
        return params * x

    def run(weight, eta, skip):
        denoise = dm.denoiser(network, jnp.float32(weight), dm.EDM())
        inversion = dm.ddpm_invert(denoise, POINTS, SIGMAS, KEY, sampler=dm.Euler(eta=eta))
        x, sigmas, replay = inversion.begin(skip)
        replay(denoise, x, sigmas, KEY)

    run(0.1, 1.0, 0.0)
    compiled = len(traces)
    run(0.2, 0.5, 0.5)
    assert len(traces) == compiled > 0


def test_more_skipped_steps_keep_more_of_the_image():
    def other(x_t, sigma):
        return oracle(x_t - 0.7, sigma) + 0.7

    image = jnp.zeros((50, 1))
    inversion = dm.ddpm_invert(oracle, image, SIGMAS, KEY)
    changes = []
    for skip in (0.0, 0.5, 0.75):
        x, sigmas, sampler = inversion.begin(skip)
        changes.append(float(jnp.abs(sampler(other, x, sigmas, KEY) - image).mean()))
    assert changes[0] > changes[1] > changes[2] > 0


def test_every_x_is_the_image_with_noise_of_its_own():
    image = jnp.zeros((4000, 1))
    inversion = dm.ddpm_invert(oracle, image, SIGMAS, KEY)
    eps = np.asarray(inversion.xs[:-1, :, 0] / SIGMAS[:-1, None])
    # of 4,000 draws: standard errors 0.011 and 0.016
    np.testing.assert_allclose(eps.std(1), 1.0, atol=0.06)
    assert np.abs(np.corrcoef(eps) - np.eye(len(eps))).max() < 0.08


def test_with_a_key_for_each_image_the_batch_does_not_matter():
    keys = jax.random.split(KEY, 3)
    together = dm.ddpm_invert(mixture, POINTS, SIGMAS, keys)
    alone = dm.ddpm_invert(mixture, POINTS[1:2], SIGMAS, keys[1:2])
    np.testing.assert_allclose(together.xs[:, 1:2], alone.xs, rtol=1e-6)
    np.testing.assert_allclose(together.shifts[:, 1:2], alone.shifts, atol=1e-4)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        *(
            (
                lambda s=s: dm.ddpm_invert(oracle, jnp.zeros((1, 1)), SIGMAS, KEY, sampler=s),
                f"{why}.*edit-friendly",
            )
            for s, why in (
                (dm.RK45(), "is adaptive"),
                (dm.Euler(), "draws no noise"),
                (dm.DPMSolverSDE2S(), "several noises"),
                (dm.RePaint(dm.Ancestral()), "repeats steps"),
                (dm.Heun(churn=1.0), "before a step"),
            )
        ),
        (lambda: dm.ddpm_invert(oracle, jnp.zeros((1, 1)), SIGMAS[:-1], KEY), "ends at sigma="),
        (lambda: dm.ddpm_invert(oracle, jnp.zeros((1, 1)), SIGMAS, KEY).begin(1.0), "skip=1.0"),
        (lambda: dm.ddpm_invert(oracle, jnp.zeros((1, 1)), SIGMAS, KEY).begin(0.99), "none of 12"),
    ],
)
def test_what_makes_no_sense_is_refused(call, says):
    with pytest.raises(ValueError, match=says):
        call()
