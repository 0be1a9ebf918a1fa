"""Agreement with diffusers: on the same grid, by the same denoiser, both end in the same place."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffusion as dm


@pytest.fixture(scope="module")
def diffusers_schedulers():
    with np.load(Path(__file__).parent / "from_diffusers" / "schedulers.npz") as arrays:
        return dict(arrays)


def two_values(x_t, sigma):
    """The denoiser of from_diffusers/make_schedulers.py."""
    variance = 0.2**2 + jnp.broadcast_to(sigma, x_t.shape[:1])[:, None] ** 2
    mean = 0.5 * jnp.tanh(0.5 * x_t / variance)
    return mean + 0.2**2 / variance * (x_t - mean)


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("ddim", dm.Euler()),
        ("euler", dm.Euler()),
        ("heun", dm.Heun()),
        ("dpm_2m", dm.DPMSolver(2)),
        ("unipc_2", dm.UniPC(2)),
        ("unipc_3", dm.UniPC(3)),
    ],
)
def test_diffusers_schedulers_end_where_ours_do(diffusers_schedulers, name, sampler):
    sigmas, unit, x_0 = (diffusers_schedulers[f"{name}.{key}"] for key in ("sigmas", "unit", "x_0"))
    sigmas = jnp.asarray(sigmas, jnp.float32)
    x_T = sigmas[0] * jnp.asarray(unit, jnp.float32)
    np.testing.assert_allclose(sampler(two_values, x_T, sigmas, jax.random.key(0)), x_0, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "sampler"),
    [
        ("ddpm_small", dm.Ancestral(interpolation=0.0)),
        ("ddpm_large", dm.Ancestral(interpolation=1.0)),
        ("ddim_eta", dm.Euler(eta=0.5)),
        ("dpm_sde", dm.DPMSolverSDE()),
    ],
)
def test_diffusers_schedulers_with_the_same_noise_end_where_ours_do(
    diffusers_schedulers, name, sampler
):
    sigmas, unit, x_0, noises = (
        diffusers_schedulers[f"{name}.{key}"].astype(np.float32)
        for key in ("sigmas", "unit", "x_0", "noises")
    )
    denoise = dm.clip(two_values) if name == "ddpm_large" else two_values
    x, memory = jnp.asarray(sigmas[0] * unit), None
    for step, noise in enumerate(noises):
        at = dm.StepContext(step, sigmas, len(noises), key=None)
        x, memory = dm.step(sampler, denoise, x, memory, at, jnp.asarray(noise))
    np.testing.assert_allclose(x, x_0, atol=1e-4)


@pytest.mark.parametrize("num_steps", [7, 10, 1000])
@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
def test_spacings_choose_diffusers_timesteps(diffusers_schedulers, spacing, num_steps):
    timesteps = dm.VPTimesteps(spacing=spacing).timesteps(num_steps)
    np.testing.assert_array_equal(
        timesteps, diffusers_schedulers[f"{spacing}.timesteps_{num_steps}"]
    )
