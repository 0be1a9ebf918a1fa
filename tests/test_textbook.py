"""The textbook's own formulas: DDPM, DDIM and EDM's Algorithm 2, line by line in float64."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from oracles import MEAN, STD, oracle

import diffusion as dm
from diffusion.sampling.unit_noise import unit_noise


def eps_network(params, x, c_noise, **cond):
    """Some smooth network; nothing about it is tuned to the formulas."""
    return params["a"] * jnp.tanh(x) + jnp.sin(c_noise / 5.0)[:, None]


CHAIN = dm.VPLinear(num_timesteps=50, beta_start=1e-3, beta_end=0.2)


def textbook_tables():
    betas = np.linspace(1e-3, 0.2, 50)
    return betas, np.cumprod(1 - betas)


def eps_hat(x_vp, timestep):
    x = np.asarray(x_vp, np.float64)
    return 0.8 * np.tanh(x) + np.sin(timestep / 5.0)


@pytest.fixture(scope="module")
def start():
    """Pure noise of the VP chain, and a denoiser around the network of `eps_hat`."""
    x_T = jax.random.normal(jax.random.key(0), (4, 3))
    return x_T, dm.denoiser(eps_network, {"a": jnp.array(0.8)}, dm.Eps(CHAIN))


@pytest.mark.parametrize("clipped", [False, True])
@pytest.mark.parametrize("variance", ["fixedsmall", "fixedlarge"])
def test_ancestral_equals_textbook_ddpm(start, variance, clipped):
    """Ho et al. 2020, Algorithm 2 with equation 7, in alpha_bar and float64."""
    x_T, denoise = start
    betas, alpha_bar = textbook_tables()
    key = jax.random.key(2)
    x = np.asarray(x_T, np.float64)
    for i, t in enumerate(reversed(range(50))):
        before = alpha_bar[t - 1] if t > 0 else 1.0
        x_0 = (x - np.sqrt(1 - alpha_bar[t]) * eps_hat(x, t)) / np.sqrt(alpha_bar[t])
        x_0 = np.clip(x_0, -1, 1) if clipped else x_0
        mean = (np.sqrt(before) * betas[t] * x_0 + np.sqrt(1 - betas[t]) * (1 - before) * x) / (
            1 - alpha_bar[t]
        )
        small = betas[t] * (1 - before) / (1 - alpha_bar[t])
        std = np.sqrt(betas[t] if variance == "fixedlarge" else small) if t > 0 else 0.0
        x = mean + std * np.asarray(unit_noise(key, i, x_T), np.float64)

    sigmas = dm.VPTimesteps(CHAIN)(50)
    sampler = dm.Ancestral(interpolation=1.0 if variance == "fixedlarge" else 0.0)
    start_ve = x_T / np.float32(np.sqrt(alpha_bar[-1]))
    got = sampler(dm.clip(denoise) if clipped else denoise, start_ve, sigmas, key)
    np.testing.assert_allclose(got, x, atol=2e-4)  # 50 float32 steps against float64


def test_euler_equals_textbook_ddim(start):
    """Song, Meng & Ermon 2020, equation 12 with eta = 0, every fifth timestep."""
    x_T, denoise = start
    _, alpha_bar = textbook_tables()
    timesteps = np.round(np.linspace(49, 0, 10)).astype(int)
    x = np.asarray(x_T, np.float64)
    for t, next_t in zip(timesteps, [*timesteps[1:], None], strict=True):
        after = 1.0 if next_t is None else alpha_bar[next_t]
        eps = eps_hat(x, t)
        x_0 = (x - np.sqrt(1 - alpha_bar[t]) * eps) / np.sqrt(alpha_bar[t])
        x = np.sqrt(after) * x_0 + np.sqrt(1 - after) * eps

    start_ve = x_T / np.float32(np.sqrt(alpha_bar[-1]))
    got = dm.Euler()(denoise, start_ve, dm.VPTimesteps(CHAIN)(10), jax.random.key(0))
    np.testing.assert_allclose(got, x, atol=2e-4)


def test_heun_equals_algorithm_2_with_churn():
    """Karras et al. 2022, Algorithm 2, written line by line in float64."""
    sampler = dm.Heun(churn=3.0, churn_min=0.1, churn_max=50.0, churn_noise=1.01)
    key, sigmas = jax.random.key(4), dm.Karras()(6)
    x_T = 80.0 * jax.random.normal(jax.random.key(0), (4, 3))

    def denoise(x, sigma):
        return (STD**2 * x + sigma**2 * MEAN) / (STD**2 + sigma**2)

    x, t = np.asarray(x_T, np.float64), np.asarray(sigmas, np.float64)
    for i in range(6):
        gamma = min(3.0 / 6, np.sqrt(2) - 1) if 0.1 <= t[i] <= 50.0 else 0.0
        eps = 1.01 * np.asarray(unit_noise(key, i, x_T), np.float64)
        t_hat = t[i] + gamma * t[i]
        x_hat = x + np.sqrt(t_hat**2 - t[i] ** 2) * eps
        d = (x_hat - denoise(x_hat, t_hat)) / t_hat
        x = x_hat + (t[i + 1] - t_hat) * d
        if t[i + 1] != 0:
            d_next = (x - denoise(x, t[i + 1])) / t[i + 1]
            x = x_hat + (t[i + 1] - t_hat) * (d + d_next) / 2
    np.testing.assert_allclose(sampler(oracle, x_T, sigmas, key), x, rtol=1e-4, atol=1e-4)
