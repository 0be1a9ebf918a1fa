"""The null of each condition: what a network gets in place of one that is left out.

    label          -1, the null class
    text           0 everywhere, the padding of which the text encoder reads the first
    context        0 everywhere, of which the first token counts
    any image      0 everywhere, which is grey

Networks learn it where training drops conditions, and guidance needs it.

Source: Ho & Salimans 2022, arXiv:2207.12598, section 3.1; images as in Brooks et al. 2022,
arXiv:2211.09800, section 3.2.1.
"""

import jax.numpy as jnp
from jaxtyping import Array, Shaped

TEXTS = ("text", "context", "context_mask")
"""The conditions that are a text, in one form or another."""

IMAGES = ("condition",)
"""The conditions that are images."""


def null(name: str, value: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
    """The null of a condition, in shape and type of a value of it."""
    if name == "label":
        return jnp.full_like(value, -1)
    if name == "context_mask":
        is_first = jnp.arange(value.shape[-1]) == 0
        return jnp.broadcast_to(is_first[None], value.shape)
    return jnp.zeros_like(value)
