"""Unit noise of a sampler's steps, from one key for the batch or one for each image."""

from typing import Any

import jax
from jaxtyping import Array, Float, Key, Shaped

from diffusion.keys import demand_key, mappable

Keys = Key[Array, ""] | Key[Array, "B"]
"""One key for the batch, or one for each image: then no image depends on the others."""


def unit_noise(key: Keys, step: Array | int, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """Normal draws for one step, of the shape and type of x."""
    if key.ndim == 0:
        return jax.random.normal(jax.random.fold_in(key, step), x.shape, x.dtype)
    return jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, step), x.shape[1:], x.dtype))(
        mappable(key)
    )


def check_key(key: Any, x: Shaped[Array, "B ..."]) -> None:
    """Raises a ValueError unless key is one new-style key, or one for each image of x."""
    demand_key(key)
    if key.shape not in ((), x.shape[:1]):
        raise ValueError(
            f"key has the shape {key.shape}; give one key, or one for each of the {x.shape[0]} "
            "images."
        )
