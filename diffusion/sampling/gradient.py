"""Gradients through a sampler in reverse mode, as fine-tuning by a reward needs them.

    sample = dm.differentiable(dm.Heun())
    image = lambda params: sample(dm.denoiser(network, params, ...), x_T, sigmas, key)
    grads = jax.grad(lambda params: reward(image(params)))(params)

A sampler's own loop runs any number of steps in one compiled function, which JAX differentiates in
forward mode alone. Here the number of steps is fixed by the grid, which compiles once for each.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.denoiser import Denoise
from diffusion.sampling.loop import BaseSampler, as_pytree, check_call
from diffusion.sampling.step_context import StepContext
from diffusion.sampling.unit_noise import Keys


@dataclass(frozen=True)
class Differentiable:
    """See `differentiable`."""

    sampler: BaseSampler

    def __call__(
        self, denoise: Denoise, x_T: Float[Array, "B ..."], sigmas: Float[Array, "S"], key: Keys
    ) -> Float[Array, "B ..."]:
        check_call(x_T, sigmas, key)
        path = jnp.asarray(self.sampler.path(sigmas))
        return _scan_checkpointed(self.sampler, as_pytree(denoise), x_T, path, key)


def differentiable(sampler: BaseSampler) -> Differentiable:
    """The sampler, with the same images, for gradients of weights, x_T or conditions.

    Only x and the sampler's memory are kept for each step, and the step is computed again in the
    backward pass: num_steps copies of the images in memory, and the denoiser is called twice.

    Args:
      sampler: one that is not adaptive.
    Returns:
      `sample(denoise, x_T, sigmas, key) -> x_0`.
    Raises:
      ValueError: an adaptive sampler.
    Source: gradient checkpointing, Chen et al. 2016, arXiv:1604.06174.
    """
    if sampler.is_adaptive:
        raise ValueError(
            f"{type(sampler).__name__} is adaptive, so its number of steps is not known and it has "
            "no gradient in reverse mode; use another sampler, such as Heun."
        )
    return Differentiable(sampler)


@jax.jit
def _scan_checkpointed(
    sampler: BaseSampler, denoise: Denoise, x_T: Array, sigmas: Array, key: Keys
) -> Array:
    num_steps = len(sigmas) - 1

    @jax.checkpoint
    def body(carry: tuple[Array, Any], index: Array) -> tuple[tuple[Array, Any], None]:
        at = StepContext(index, sigmas, jnp.int32(num_steps), key)
        return sampler.step(denoise, *carry, at), None

    steps = jnp.arange(num_steps, dtype=jnp.int32)
    return jax.lax.scan(body, (x_T, sampler.init(x_T)), steps)[0][0]
