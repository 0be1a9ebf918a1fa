"""Phi-functions: the weights of exponential integrators."""

import math

import jax.numpy as jnp
from jaxtyping import Array


def phi(k: int, h: Array) -> Array:
    """The k-th phi-function at -h, for h > 0.

    phi_0 = exp(-h),  phi_k = (1 / (k - 1)! - phi_{k-1}) / h,  at h = 0 it is 1 / k!

    Source: Hochbruck & Ostermann 2010, "Exponential integrators", equation 2.10.
    """
    # below h = 1 the recursion loses digits, above it the series does; 20 terms suffice in float64
    small = jnp.minimum(h, 1.0)
    series = jnp.zeros_like(h)
    for j in reversed(range(20)):
        series = 1 / math.factorial(j + k) - small * series
    value = jnp.exp(-h)
    for j in range(k):
        value = (1 / math.factorial(j) - value) / jnp.maximum(h, 1.0)
    return jnp.where(h < 1, series, value)
