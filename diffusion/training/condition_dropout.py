"""Leaves out conditions in training, so that the network learns to do without them."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

from diffusion import conditions
from diffusion.denoiser import per_image


def drop_conditions(
    key: Key[Array, ""], cond: dict[str, Any], *, text: float = 0.0, image: float = 0.0
) -> dict[str, Any]:
    """Replaces texts and conditioning images by their null, of each image of the batch alone.

    One uniform number u of each image decides: its text is left out where u < text, its
    conditioning image where h <= u < h + image, with h = max(0, text - image / 2). So half of the
    images that lose one of the two lose both, where the rates are equal.

    Args:
      cond: the batch without its images; other entries stay.
      text, image: fraction of those that are left out, in [0, 1].
    Source: Brooks et al. 2022, arXiv:2211.09800, section 3.2.1; text = image = 0.1 is theirs: 5 %
      without the text, 5 % without the image, 5 % without both.
    """
    names = [name for name in cond if name in (*conditions.TEXTS, *conditions.IMAGES)]
    if not names or text == image == 0:
        return cond
    u = jax.random.uniform(key, cond[names[0]].shape[:1], jnp.float32)
    first = min(max(0.0, text - image / 2), 1 - image)
    loses_text, loses_image = u < text, (first <= u) & (u < first + image)
    dropped = dict(cond)
    for name in names:
        lost = loses_image if name in conditions.IMAGES else loses_text
        value = cond[name]
        dropped[name] = jnp.where(per_image(lost, value), conditions.null(name, value), value)
    return dropped
