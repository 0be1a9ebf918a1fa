"""Unit noise of a sampler's steps, from one key for the batch or one for each image."""

from typing import Any

import jax
from jaxtyping import Array, Float, Key, Shaped

from diffusion.keys import demand_key, mappable

Keys = Key[Array, ""] | Key[Array, "B"]
"""One key for the batch, or one for each image: then no image depends on the others."""


def unit_noise(
    key: Keys, step: Array | int, x: Float[Array, "B ..."], part: int = 0
) -> Float[Array, "B ..."]:
    """Normal draws for one step, of the shape and type of x; each part of a step has its own."""

    def draw(key: Array, shape: tuple[int, ...]) -> Array:
        key = jax.random.fold_in(key, step)
        key = jax.random.fold_in(key, part) if part else key
        return jax.random.normal(key, shape, x.dtype)

    return (
        draw(key, x.shape)
        if key.ndim == 0
        else jax.vmap(lambda k: draw(k, x.shape[1:]))(mappable(key))
    )


def check_key(key: Any, x: Shaped[Array, "B ..."]) -> None:
    """Raises a ValueError unless key is one new-style key, or one for each image of x."""
    demand_key(key)
    if key.shape not in ((), x.shape[:1]):
        raise ValueError(
            f"key has the shape {key.shape}; give one key, or one for each of the {x.shape[0]} "
            "images."
        )
