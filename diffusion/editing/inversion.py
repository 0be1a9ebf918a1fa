"""Inversion: the noise from which a deterministic sampler draws a given image."""

import jax
import numpy as np
from jaxtyping import Array, Float

from diffusion.denoiser import Denoise
from diffusion.pixels import check_image
from diffusion.sampling.loop import BaseSampler, check_grid, run_along
from diffusion.sampling.samplers import Euler


def invert(
    denoise: Denoise,
    image: Float[Array, "B ..."],
    sigmas: Float[Array, "S"],
    sampler: BaseSampler = Euler(),  # noqa: B008 (frozen)
) -> Float[Array, "B ..."]:
    """The noise x_T from which a sampler draws this image: the same ODE, from low sigma to high.

    The image is taken to be at the last sigma above 0. With `Euler` it is DDIM inversion; `Heun`
    is more accurate, at twice the cost.

    Args:
      image: in [-1, 1].
      sigmas: the grid to sample on afterwards.
      sampler: one that is deterministic, has no memory and is not adaptive, such as `Euler`, `Heun`
        or `DPMSolver2S`; the image may be drawn again by any other.
    Returns:
      x_T, of standard deviation near sigmas[0].
    Raises:
      ValueError: an image of integers; a sampler without these properties; a grid with one sigma
        above 0.
    Source: Song, Meng & Ermon 2020, arXiv:2010.02502, section 5.4.
    """
    check_image("image", image)
    ascending = ascending_sigmas(sigmas, sampler)
    return run_along(ascending, sampler, denoise, image, jax.random.key(0))  # no noise is drawn


def ascending_sigmas(sigmas: Float[Array, "S"], sampler: BaseSampler) -> Float[Array, "R"]:
    """The sigmas above 0 in the order of inversion.

    Raises:
      ValueError: as of `invert`.
    """
    name = type(sampler).__name__
    if sampler.is_adaptive or sampler.has_memory:
        why = "is adaptive" if sampler.is_adaptive else "has memory of earlier steps"
        raise ValueError(f"{name} {why}, and cannot invert; use Euler, Heun or DPMSolver2S.")
    if not sampler.is_deterministic:
        raise ValueError(
            f"{sampler} is not deterministic: it draws noise, and cannot invert; set its noise to "
            "0, or use Euler, Heun or DPMSolver2S."
        )
    check_grid(sigmas)
    ascending = sigmas[np.asarray(sigmas) > 0][::-1]
    if len(ascending) < 2:
        raise ValueError(
            f"a grid with {len(ascending)} sigma above 0 has no step to invert; inversion needs 2 "
            "or more: use more steps."
        )
    return ascending
