"""The variance of DDPM's steps: its two bounds, and what a step costs in nats.

A step from sigma to sigma_next draws x_next with the variance

small^(1 - i) large^i,  small = sigma_next^2 (1 - r),  large = (1 + sigma_next^2) beta
r = (sigma_next / sigma)^2,  beta = 1 - (1 + sigma_next^2) / (1 + sigma^2)

in units of x_0 + sigma eps. The interpolation i is one number, or what a network gives for each
value of the images.

Source: Ho et al. 2020, arXiv:2006.11239, section 3.2; i Nichol & Dhariwal 2021, arXiv:2102.09672,
equation 15.
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.pixels import log_bin


def step_nats(
    x_0: Float[Array, "..."],
    x_0_hat: Float[Array, "..."],
    interpolation: Array | float,
    sigma: Array,
    q: Array,
    p: Array,
) -> Float[Array, "..."]:
    """Divergence of the sampler's step from the posterior given x_0, in nats for each value.

    KL(N(m(x_0), small) || N(m(x_0_hat), small^(1 - i) large^i)),  m(x) = r x_t + (1 - r) x

    Args:
      x_0, x_0_hat: the clean images and their estimates.
      interpolation: i, one number or one for each value.
      sigma: noise level before the step; a scalar, or of x_0's rank.
      q: sigma_next / sigma, > 0.
      p: 1 - q, to full precision.
    Source: Ho et al. 2020, arXiv:2006.11239, equation 5.
    """
    gap = p * (1 + q)  # 1 - r
    log_scale = interpolation * jnp.log1p(gap / (q**2 * (1 + sigma**2)))  # ln(variance / small)
    squared = gap * jnp.square((x_0 - x_0_hat) / (q * sigma))  # of the means' distance, over small
    return (log_scale + jnp.expm1(-log_scale) + squared * jnp.exp(-log_scale)) / 2


def decoder_nats(
    x_0: Float[Array, "..."],
    x_0_hat: Float[Array, "..."],
    interpolation: Array | float,
    sigma: Array,
    p_before: Array,
) -> Float[Array, "..."]:
    """-ln P(pixel's bin) under the step from the lowest sigma to 0, in nats for each value.

    The large variance is beta; the small one, which would be 0, is replaced by that of the step
    before in units of z_t = x_t / sqrt(1 + sigma^2).

    Args:
      sigma: the lowest sigma above 0; a scalar, or of x_0's rank.
      p_before: 1 - sigma / sigma_before of the step that led to it.
    Source: Nichol & Dhariwal 2021, arXiv:2102.09672, whose code clips the small variance so.
    """
    small_over_large = p_before * (2 - p_before)  # 1 - (sigma / sigma_before)^2
    log_std = jnp.log(sigma) + ((1 - interpolation) * jnp.log(small_over_large)) / 2
    std = jnp.exp(log_std) / jnp.sqrt(1 + sigma**2)
    return -log_bin(x_0, x_0_hat, std)
