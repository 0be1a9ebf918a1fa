"""Exact denoisers, with which the laws of samplers are measured."""

import jax
import jax.numpy as jnp

MEAN, STD = 0.3, 0.5


def oracle(x_t, sigma):
    """The exact denoiser of data N(MEAN, STD^2)."""
    sigma = jnp.broadcast_to(sigma, x_t.shape[:1])[:, None]
    return (STD**2 * x_t + sigma**2 * MEAN) / (STD**2 + sigma**2)


def mixture(x_t, sigma):
    """The exact denoiser of three Gaussians in the plane."""
    means = jnp.array([[-1.0, 0.5], [0.8, 0.8], [0.3, -1.0]], x_t.dtype)
    weights = jnp.array([0.3, 0.5, 0.2], x_t.dtype)
    sigma = jnp.broadcast_to(sigma, x_t.shape[:1])[:, None]
    gaps = x_t[:, None, :] - means[None]  # (B, 3, 2)
    variance = 0.25**2 + sigma**2
    share = jax.nn.softmax(
        jnp.log(weights)[None] - jnp.square(gaps).sum(-1) / (2 * variance), axis=1
    )
    estimates = means[None] + (0.25**2 / variance)[:, :, None] * gaps
    return (share[:, :, None] * estimates).sum(1)


def correlated(x_t, sigma, rho):
    """The exact denoiser of pairs (B, 2) of unit variance and correlation rho."""
    sum_and_difference = jnp.array([[1.0, 1.0], [1.0, -1.0]], x_t.dtype) / jnp.sqrt(2.0)
    variances = jnp.array([1 + rho, 1 - rho], x_t.dtype)
    sigma = jnp.broadcast_to(sigma, x_t.shape[:1])[:, None]
    gain = variances[None] / (variances[None] + sigma**2)
    return (x_t @ sum_and_difference * gain) @ sum_and_difference
