"""Coupling: which noise goes with which image in training, `coupling(x_0, eps) -> eps`."""

from dataclasses import dataclass

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


@dataclass(frozen=True)
class Independent:
    """Noise as it was drawn: diffusion's own pairing."""

    def __call__(
        self, x_0: Float[Array, "B ..."], eps: Float[Array, "B ..."]
    ) -> Float[Array, "B ..."]:
        return eps


@dataclass(frozen=True)
class MinibatchOT:
    """Pairs the batch's images and noises so that the sum of squared distances is least.

    Flow matching's paths cross less, so samples need fewer steps. An estimate of x_0 is then no
    longer the mean over independent noise: guidance by a score, likelihood and stochastic samplers
    lose their meaning. The pairing costs O(B^3) on one device.

    Source: Tong et al. 2023, arXiv:2302.00482, section 3.2; Pooladian et al. 2023,
      arXiv:2304.14772; Hungarian algorithm by optax.
    """

    def __call__(
        self, x_0: Float[Array, "B ..."], eps: Float[Array, "B ..."]
    ) -> Float[Array, "B ..."]:
        batch = x_0.shape[0]
        # |x_0 - eps|^2 but for what no pairing changes
        costs = -x_0.reshape(batch, -1) @ eps.reshape(batch, -1).T
        images, noises = optax.assignment.hungarian_algorithm(costs)
        return eps[noises[jnp.argsort(images)]]


Coupling = Independent | MinibatchOT
