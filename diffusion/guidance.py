"""Functions from denoise to denoise: what makes samples follow a condition, or stay in range."""

from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.denoiser import Denoise


@partial(jax.tree_util.register_dataclass, data_fields=["cond", "uncond", "scale"], meta_fields=[])
@dataclass(frozen=True)
class ClassifierFree:
    """See `classifier_free`."""

    cond: Denoise
    uncond: Denoise
    scale: float | Float[Array, ""]

    def __call__(self, x_t: Float[Array, "B ..."], sigma: Array) -> Float[Array, "B ..."]:
        without = self.uncond(x_t, sigma)
        return without + self.scale * (self.cond(x_t, sigma) - without)


def classifier_free(cond: Denoise, uncond: Denoise, scale: float) -> Denoise:
    """Pushes samples towards their condition: D = D_uncond + scale * (D_cond - D_uncond).

    Args:
      cond: the denoiser that is told the condition.
      uncond: the denoiser that is told the null class; trained along where training drops labels.
      scale: 1 is no guidance, 0 forgets the condition.
    Source: Ho & Salimans 2022, arXiv:2207.12598, equation 6 (their w is scale - 1).
    """
    return ClassifierFree(cond, uncond, scale)


@partial(jax.tree_util.register_dataclass, data_fields=["denoise"], meta_fields=[])
@dataclass(frozen=True)
class Clip:
    """See `clip`."""

    denoise: Denoise

    def __call__(self, x_t: Float[Array, "B ..."], sigma: Array) -> Float[Array, "B ..."]:
        return jnp.clip(self.denoise(x_t, sigma), -1.0, 1.0)


def clip(denoise: Denoise) -> Denoise:
    """Keeps every estimate x_0_hat in [-1, 1], as DDPM's sampler does.

    Source: Ho et al. 2020, arXiv:2006.11239 (in their code; the paper's Algorithm 2 omits it).
    """
    return Clip(denoise)
