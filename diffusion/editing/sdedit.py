"""SDEdit: variations of an image, by noising it part of the way and sampling the rest."""

from jaxtyping import Array, Float

from diffusion.pixels import check_image
from diffusion.ranges import demand


def begin_from(
    image: Float[Array, "B ..."],
    eps: Float[Array, "B ..."],
    sigmas: Float[Array, "S"],
    strength: float,
) -> tuple[Float[Array, "B ..."], Float[Array, "R"]]:
    """The noisy image and the rest of the grid from which a sampler draws variations of an image.

    x_t = image + sigma * eps at the first sigma of the rest

    Args:
      image: in [-1, 1].
      eps: unit noise.
      sigmas: the whole grid.
      strength: share of the grid's steps that are taken, in (0, 1]; 1 keeps next to nothing of the
        image.
    Returns:
      (x_t, sigmas), for any sampler.
    Raises:
      ValueError: an image of integers; strength is outside (0, 1].
    Source: Meng et al. 2021, arXiv:2108.01073 (SDEdit), Algorithm 1.
    """
    check_image("image", image)
    demand("(0, 1]", strength=strength)
    num_steps = max(1, round(strength * (len(sigmas) - 1)))
    rest = sigmas[-1 - num_steps :]
    return image + rest[0] * eps, rest
