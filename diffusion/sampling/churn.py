"""Churn: noise that is added to x before a step, which then starts from a larger sigma.

A sampler with churn has the fields churn, churn_min, churn_max and churn_noise.

Source: Karras et al. 2022, arXiv:2206.00364, Algorithm 2, lines 4 to 6.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.ranges import demand, demand_ascent
from diffusion.sampling.step_context import StepContext


def check_churn(sampler: Any) -> None:
    """Raises a ValueError unless the fields are in their ranges."""
    demand("[0, inf)", churn=sampler.churn, churn_noise=sampler.churn_noise)
    demand("[0, inf)", churn_min=sampler.churn_min, churn_max=sampler.churn_max)
    demand_ascent(churn_min=sampler.churn_min, churn_max=sampler.churn_max)


def add_churn(
    sampler: Any, x: Float[Array, "B ..."], at: StepContext, part: int = 0
) -> tuple[Float[Array, "B ..."], Float[Array, ""]]:
    """x with the noise of this step added, and its larger sigma; both as they are if churn is 0.

    Args:
      part: which of the step's noises it is.
    """
    sigma = at.sigma
    within = (sampler.churn_min <= sigma) & (sigma <= sampler.churn_max)
    gamma = jnp.where(within, jnp.minimum(sampler.churn / at.num_steps, jnp.sqrt(2.0) - 1), 0.0)
    # sigma_hat^2 - sigma^2 in factors: rounding cannot make it negative
    x = at.add_noise(x, sampler.churn_noise * sigma * jnp.sqrt(gamma * (2 + gamma)), part)
    return x, sigma * (1 + gamma)
