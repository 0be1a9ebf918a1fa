"""The one loss: squared error of the raw network output against its target, times a weighting.

target = (x_0 - c_skip x_t) / c_out,  so the error is that of x_0_hat divided by c_out^2.

With `Eps` the target is eps and the loss DDPM's L_simple; with `EDM` it is EDM's weighted loss.

Source: Karras et al. 2022, arXiv:2206.00364, equation 8.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.denoiser import Network, Preconditioning, per_image


@dataclass(frozen=True)
class Simple:
    """Every noise level counts alike."""

    def __call__(self, sigma: Float[Array, "B"]) -> Float[Array, "B"]:
        return jnp.ones_like(sigma)


Weighting = Simple | Callable[[Array], Array]


def loss(
    network: Network,
    params: Any,
    preconditioning: Preconditioning,
    x_0: Float[Array, "B ..."],
    sigma: Float[Array, "B"],
    eps: Float[Array, "B ..."],
    *,
    weighting: Weighting = Simple(),  # noqa: B008 (frozen)
    **cond: Any,
) -> Float[Array, "B"]:
    """Loss of each image: mean over its pixels.

    Args:
      network: `network(params, x, c_noise, **cond)`.
      x_0: clean images in [-1, 1].
      sigma: noise level of each image, > 0.
      eps: unit noise, like x_0.
      weighting: factor by noise level.
      cond: what the network takes besides, dropout_key included.
    """
    x_t = x_0 + per_image(sigma, x_0) * eps
    c_skip, c_out, c_in, c_noise = preconditioning(sigma)
    target = (x_0 - per_image(c_skip, x_0) * x_t) / per_image(c_out, x_0)
    output = network(params, per_image(c_in, x_t) * x_t, c_noise, **cond)
    error = jnp.square(output - target).mean(range(1, x_0.ndim))
    return weighting(sigma) * error
