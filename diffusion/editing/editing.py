"""Editing: a given image leads the way from noise to image.

Inpainting and super-resolution are functions from denoise to denoise, after which any sampler
serves; image-to-image and interpolation choose where sampling begins; inversion goes back there.
None of them trains anything.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from diffusion.denoiser import Denoise, per_image
from diffusion.ranges import demand
from diffusion.sampling.dpm import DPMSolver2S
from diffusion.sampling.guidance import Sigma, pytree
from diffusion.sampling.loop import Method, OnGrid, solve
from diffusion.sampling.samplers import Euler, Heun


@partial(pytree, data_fields=["denoise", "image", "redrawn"])
@dataclass(frozen=True)
class Inpaint:
    """See `inpaint`."""

    denoise: Denoise
    image: Array
    redrawn: Array

    def __call__(self, x_t: Float[Array, "B ..."], sigma: Sigma) -> Float[Array, "B ..."]:
        redrawn = _for_each("mask", self.redrawn, x_t)
        return jnp.where(redrawn, self.denoise(x_t, sigma), _for_each("image", self.image, x_t))


def _for_each(name: str, given: Array, x_t: Array) -> Array:
    is_each = given.ndim == x_t.ndim and given.shape[0] not in (1, x_t.shape[0])
    if is_each or given.shape[-3:-1] != x_t.shape[-3:-1]:
        raise ValueError(
            f"the {name} is {given.shape[:-1]} (count, height, width), which fits no "
            f"{x_t.shape[:-1]} images; give one for all, or one for each."
        )
    return jnp.broadcast_to(given, x_t.shape)


def inpaint(
    denoise: Denoise,
    image: Float[Array, "B H W C"] | Float[Array, "H W C"],
    redrawn: Bool[Array, "*mask"],
) -> Denoise:
    """Draws the part of an image anew that a mask names; the rest is known.

    The known part's estimate is the image itself, so every sampler brings its noisy version along,
    as the forward process would, and returns it exactly where the grid ends in 0. What is new fits
    what is known much better by `RePaint`.

    Args:
      image: in [-1, 1]; what it holds under the mask is ignored.
      redrawn: True where the image is drawn anew, (H, W) or (B, H, W).
    Raises:
      ValueError: the mask is not as high and wide as the image; at the call, where there are
        several masks or images, but not as many as are drawn.
    Source: replacement as Lugmayr et al. 2022, arXiv:2201.09865, equation 8.
    """
    if redrawn.shape[-2:] != image.shape[-3:-1]:
        raise ValueError(
            f"the mask is {redrawn.shape[-2:]} (height, width), but the image is "
            f"{image.shape[-3:-1]}; they must be of one size."
        )
    return Inpaint(denoise, jnp.asarray(image), jnp.asarray(redrawn)[..., None])


def begin_from(
    image: Float[Array, "B ..."],
    eps: Float[Array, "B ..."],
    sigmas: Float[Array, "S"],
    strength: float,
) -> tuple[Float[Array, "B ..."], Float[Array, "R"]]:
    """Where to begin, and what is left of the grid, to draw variations of an image.

    Args:
      image: in [-1, 1].
      eps: unit noise.
      sigmas: the whole grid.
      strength: share of the grid's steps that are walked, in (0, 1]; 1 keeps next to nothing.
    Returns:
      (x_t, sigmas), for any sampler.
    Raises:
      ValueError: strength is outside (0, 1].
    Source: Meng et al. 2021, arXiv:2108.01073 (SDEdit), Algorithm 1.
    """
    demand("(0, 1]", strength=strength)
    num_steps = max(1, round(strength * (len(sigmas) - 1)))
    left = sigmas[-1 - num_steps :]
    return image + left[0] * eps, left


def invert(
    denoise: Denoise,
    image: Float[Array, "B ..."],
    sigmas: Float[Array, "S"],
    sampler: Any = Euler(),  # noqa: B008 (frozen)
) -> Float[Array, "B ..."]:
    """The noise x_T from which a deterministic sampler draws this image: the same ODE upwards.

    The image is taken to be at the last sigma above 0. With `Euler` it is DDIM inversion; `Heun`
    comes back closer, at twice the cost.

    Args:
      image: in [-1, 1].
      sigmas: the grid to draw on afterwards.
      sampler: `Euler`, `Heun` or `DPMSolver2S`, without noise.
    Returns:
      x_T, of standard deviation near sigmas[0].
    Raises:
      ValueError: another sampler, or one that draws noise; a grid with one sigma above 0.
    Source: Song, Meng & Ermon 2020, arXiv:2010.02502, section 5.4.
    """
    if not isinstance(sampler, Euler | Heun | DPMSolver2S):
        raise ValueError(
            f"{type(sampler).__name__} cannot go back up; use Euler, Heun or DPMSolver2S, and draw "
            "with any."
        )
    if getattr(sampler, "eta", 0) or getattr(sampler, "churn", 0):
        raise ValueError(f"{sampler} draws noise, so that no way leads back; set it to 0.")
    if (num_above := int((np.asarray(sigmas) > 0).sum())) < 2:
        raise ValueError(
            f"a grid with {num_above} sigma above 0 has no way up; inversion needs 2 or more: more "
            "steps."
        )
    return solve(_Upwards(sampler), denoise, image, sigmas, jax.random.key(0))


@dataclass(frozen=True)
class _Upwards(OnGrid):
    sampler: Euler | Heun | DPMSolver2S

    @property
    def method(self) -> Method:
        return self.sampler.method._replace(way=_upwards)

    @property
    def settings(self) -> tuple[float, ...]:
        return self.sampler.settings


def _upwards(sigmas: Array) -> Array:
    return sigmas[sigmas > 0][::-1]


def slerp(
    a: Float[Array, "B ..."], b: Float[Array, "B ..."], weight: Float[Array, "B"]
) -> Float[Array, "B ..."]:
    """From a to b on the sphere, image by image: between unit noises all is unit noise.

    Args:
      weight: 0 is a, 1 is b.
    Source: Shoemake 1985; for diffusion Song, Meng & Ermon 2020, arXiv:2010.02502, appendix D.5.
    """
    axes = tuple(range(1, a.ndim))
    cosine = (a * b).sum(axes) / jnp.sqrt((a * a).sum(axes) * (b * b).sum(axes))
    angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
    # where both point the same way the sphere is flat
    safe = jnp.where(angle > 1e-3, angle, 1.0)
    of_a = jnp.where(angle > 1e-3, jnp.sin((1 - weight) * safe) / jnp.sin(safe), 1 - weight)
    of_b = jnp.where(angle > 1e-3, jnp.sin(weight * safe) / jnp.sin(safe), weight)
    return per_image(of_a, a) * a + per_image(of_b, b) * b
