"""Super-resolution: a large image whose pixels average to a given small one, by any denoiser."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.adjusted import Adjusted
from diffusion.denoiser import Denoise
from diffusion.pixels import check_image
from diffusion.ranges import demand


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class SuperResolve(Adjusted):
    """See `super_resolve`."""

    denoise: Denoise
    low: Array

    def adjust(self, x_0_hat, x_t, sigma):
        factor = x_t.shape[-2] // self.low.shape[-2]
        if tuple(factor * n for n in self.low.shape[-3:-1]) != x_t.shape[-3:-1]:
            raise ValueError(
                f"the images are {x_t.shape[-3:-1]} (height, width), which is not a whole number "
                f"of times the given {self.low.shape[-3:-1]}."
            )
        return with_averages(x_0_hat, self.low, factor)


def super_resolve(
    denoise: Denoise, low: Float[Array, "B h w C"] | Float[Array, "h w C"]
) -> Denoise:
    """Draws large images in [-1, 1] whose squares of pixels average to a given small image.

    Each estimate is projected by `with_averages`.

    Args:
      low: in [-1, 1].
    Raises:
      ValueError: an image of integers; low has values outside [-1, 1]; at the call, if the size of
        x_t is not a multiple of the size of low.
    Source: Wang, Yu & Zhang 2022, arXiv:2212.00490, equation 12 (DDNM), which shifts each square of
      pixels to its average. Deviation: the result stays in [-1, 1] and keeps its averages, so that
      conversion to pixels clips nothing.
    """
    check_image("low", low)
    demand("[-1, 1]", darkest=low.min(), brightest=low.max())
    return SuperResolve(denoise, jnp.asarray(low))


def with_averages(
    image: Float[Array, "B H W C"],
    low: Float[Array, "B h w C"] | Float[Array, "h w C"],
    factor: int,
) -> Float[Array, "B H W C"]:
    """The nearest image in [-1, 1] whose squares of pixels have these averages.

    The nearest image to clip(x) is clip(clip(x) + t) with one shift t for each square. Its average
    increases with t and equals `low` for some t in [-2, 2], which bisection finds exactly.

    Args:
      low: the averages, in [-1, 1].
      factor: side of a square.
    """
    image = jnp.clip(image, -1.0, 1.0)
    squares = shrunk(image, factor).shape
    low = jnp.broadcast_to(low, squares)

    def shifted(t: Array) -> Array:
        return jnp.clip(image + enlarged(t, factor), -1.0, 1.0)

    def halve(_: Array, ends: tuple[Array, Array]) -> tuple[Array, Array]:
        middle = (ends[0] + ends[1]) / 2
        is_too_dark = shrunk(shifted(middle), factor) < low
        return jnp.where(is_too_dark, middle, ends[0]), jnp.where(is_too_dark, ends[1], middle)

    ends = jnp.full(squares, -2.0, image.dtype), jnp.full(squares, 2.0, image.dtype)
    _, t = jax.lax.fori_loop(0, jnp.finfo(image.dtype).nmant + 3, halve, ends)
    return shifted(t)


def shrunk(image: Float[Array, "*B H W C"], factor: int) -> Float[Array, "*B h w C"]:
    """The averages of squares of factor x factor pixels."""
    *batch, height, width, channels = image.shape
    parts = (height // factor, factor, width // factor, factor)
    return image.reshape(*batch, *parts, channels).mean((-4, -2))


def enlarged(image: Float[Array, "*B h w C"], factor: int) -> Float[Array, "*B H W C"]:
    """Each pixel repeated as a square of factor x factor pixels."""
    return image.repeat(factor, axis=-3).repeat(factor, axis=-2)
