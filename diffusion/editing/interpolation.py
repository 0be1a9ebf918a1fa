"""Interpolation between two noises, and so between the images that are drawn from them."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.denoiser import per_image


def slerp(
    a: Float[Array, "B ..."], b: Float[Array, "B ..."], weight: Float[Array, "B"]
) -> Float[Array, "B ..."]:
    """Spherical interpolation from a to b, image by image: between unit noises it is unit noise.

    sin((1 - weight) angle) / sin(angle) a + sin(weight angle) / sin(angle) b

    Args:
      weight: 0 is a, 1 is b.
    Source: Shoemake 1985; for diffusion Song, Meng & Ermon 2020, arXiv:2010.02502, appendix D.5.
    """
    axes = tuple(range(1, a.ndim))
    cosine = (a * b).sum(axes) / jnp.sqrt((a * a).sum(axes) * (b * b).sum(axes))
    angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
    # for parallel a and b the angle is 0: interpolate along the line
    safe = jnp.where(angle > 1e-3, angle, 1.0)
    a_weight = jnp.where(angle > 1e-3, jnp.sin((1 - weight) * safe) / jnp.sin(safe), 1 - weight)
    b_weight = jnp.where(angle > 1e-3, jnp.sin(weight * safe) / jnp.sin(safe), weight)
    return per_image(a_weight, a) * a + per_image(b_weight, b) * b
