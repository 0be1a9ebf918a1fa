"""Semantic edits: concepts are added to an image or removed from it, each where it acts most.

D = D_base + sum_i scale_i mask_i (D_i - D_base)
mask_i = 1 where |D_i - D_base|, summed over channels, is among the largest 1 - threshold_i

On top of `ddpm_invert` with D_base, the image comes back where no concept acts.

Source: Brack et al. 2023, arXiv:2311.16711 (LEDITS++), equations 5 to 8. Deviations: the concept's
mask may be given in place of that of cross-attention; D_base may have a text that describes the
image. The paper inverts with `sampler=DPMSolverSDE(max_ratio=inf)` of `ddpm_invert`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.denoiser import Denoise, Sigma, per_image
from diffusion.ranges import demand
from diffusion.sampling.guidance import BatchedCall, SeparateCalls, estimates_of


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Concept:
    """What is added to an image, or removed from it.

    Attributes:
      scale: how strongly; negative removes.
      threshold: share of the pixels that stay as they are, in [0, 1).
      sigma_max: above this noise level the concept does not act, so that the layout stays; > 0.
      mask: (B, H, W, 1) or (H, W, 1), 1 where the concept may act; None for everywhere.
    Raises:
      ValueError: a value is outside its range.
    """

    scale: Any = 5.0
    threshold: Any = 0.9
    sigma_max: Any = float("inf")
    mask: Any = None

    def __post_init__(self):
        if isinstance(self.scale, int | float):  # placeholders of JAX pass
            demand("(-inf, inf)", scale=self.scale)
            demand("[0, 1)", threshold=self.threshold)
            demand("(0, inf]", sigma_max=self.sigma_max)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class WithConcepts:
    """See `with_concepts`."""

    calls: SeparateCalls | BatchedCall
    concepts: tuple[Concept, ...]

    def __call__(self, x_t: Float[Array, "B ..."], sigma: Sigma) -> Float[Array, "B ..."]:
        base, *others = self.calls(x_t, sigma)
        edited = base
        for concept, D in zip(self.concepts, others, strict=True):
            direction = D - base
            size = jnp.abs(direction).sum(-1, keepdims=True)
            flat = size.reshape(size.shape[0], -1)
            bound = jnp.quantile(flat, concept.threshold, axis=1)
            acts = size >= per_image(bound, size)
            is_low = jnp.broadcast_to(sigma, x_t.shape[:1]) <= concept.sigma_max
            where = (acts & per_image(is_low, size)).astype(base.dtype)
            if concept.mask is not None:
                where = where * jnp.broadcast_to(concept.mask, where.shape)
            edited = edited + concept.scale * where * direction
        return edited


def with_concepts(base: Denoise, concepts: Sequence[tuple[Denoise, Concept]]) -> Denoise:
    """Adds concepts to what a denoiser draws, or removes them.

    Denoisers of the same network and weights are evaluated in one batched call.

    Args:
      base: the denoiser with which the image was inverted.
      concepts: for each the denoiser with its text, and how it acts.
    Raises:
      ValueError: there is no concept.
    """
    if not concepts:
        raise ValueError("there is no concept; give one or more.")
    denoisers, how = zip(*concepts, strict=True)
    return WithConcepts(estimates_of(base, *denoisers), tuple(how))
