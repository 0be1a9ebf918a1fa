"""Coupling: how training pairs images with noise, `coupling(x_0, eps) -> reordered eps`."""

from dataclasses import dataclass

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float


@dataclass(frozen=True)
class Independent:
    """Keeps the noise as drawn, independent of the images: standard diffusion training."""

    def __call__(
        self, x_0: Float[Array, "B ..."], eps: Float[Array, "B ..."]
    ) -> Float[Array, "B ..."]:
        return eps


@dataclass(frozen=True)
class MinibatchOT:
    """Optimal transport within the batch: the pairing with the least sum of squared distances.

    The paths of flow matching then cross less, so sampling needs fewer steps. But x_0_hat is no
    longer the mean of x_0 under independent noise, so guidance by a score, likelihoods and
    stochastic samplers are no longer valid. The pairing costs O(B^3) on one device.

    Source: Tong et al. 2023, arXiv:2302.00482, section 3.2; Pooladian et al. 2023,
      arXiv:2304.14772. The Hungarian algorithm is optax's.
    """

    def __call__(
        self, x_0: Float[Array, "B ..."], eps: Float[Array, "B ..."]
    ) -> Float[Array, "B ..."]:
        batch = x_0.shape[0]
        # |x_0 - eps|^2 / 2 without |x_0|^2 and |eps|^2, whose sums no pairing changes
        costs = -x_0.reshape(batch, -1) @ eps.reshape(batch, -1).T
        images, noises = optax.assignment.hungarian_algorithm(costs)
        return eps[noises[jnp.argsort(images)]]


Coupling = Independent | MinibatchOT
