"""Inpainting: any sampler redraws a part of an image, by any denoiser."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from diffusion.adjusted import Adjusted
from diffusion.denoiser import Denoise
from diffusion.pixels import check_image


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Inpaint(Adjusted):
    """See `inpaint`."""

    denoise: Denoise
    image: Array
    redrawn: Array

    def adjust(self, x_0_hat, x_t, sigma):
        redrawn = _broadcast("mask", self.redrawn, x_t)
        return jnp.where(redrawn, x_0_hat, _broadcast("image", self.image, x_t))


def inpaint(
    denoise: Denoise,
    image: Float[Array, "B H W C"] | Float[Array, "H W C"],
    redrawn: Bool[Array, "*mask"],
) -> Denoise:
    """Redraws the part of an image that a mask marks; the rest stays as it is.

    D(x_t; sigma) where the mask is True, else the image

    In the known part the estimate is the image itself, so every sampler keeps that part at the
    noise of each step, as the forward process would, and returns it exactly where the grid ends in
    0. `RePaint` makes the new part fit the known one much better.

    Args:
      image: in [-1, 1]; its values under the mask are ignored.
      redrawn: True where the image is redrawn, (H, W) or (B, H, W).
    Raises:
      ValueError: an image of integers; a mask that is not as high and wide as the image; at the
        call, if the number or size of masks or images does not match x_t.
    Source: replacement as Lugmayr et al. 2022, arXiv:2201.09865, equation 8.
    """
    check_image("image", image)
    if redrawn.shape[-2:] != image.shape[-3:-1]:
        raise ValueError(
            f"the mask is {redrawn.shape[-2:]} (height, width), but the image is "
            f"{image.shape[-3:-1]}; they must be of one size."
        )
    return Inpaint(denoise, jnp.asarray(image), jnp.asarray(redrawn)[..., None])


def _broadcast(name: str, given: Array, x_t: Array) -> Array:
    is_batch = given.ndim == x_t.ndim and given.shape[0] not in (1, x_t.shape[0])
    if is_batch or given.shape[-3:-1] != x_t.shape[-3:-1]:
        raise ValueError(
            f"the {name} is {given.shape[:-1]} (count, height, width), which fits no "
            f"{x_t.shape[:-1]} images; give one for all, or one for each."
        )
    return jnp.broadcast_to(given, x_t.shape)
