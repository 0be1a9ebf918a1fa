"""Random keys: which are taken, and what makes draws of one key the same in any batch."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

IMPL = "threefry2x32"
"""JAX's default generator. Its draws do not depend on vmap or on devices; those of "rbg" do."""


def demand_key(key: Any) -> None:
    """Raises a ValueError unless key is one new-style key, or an array of them."""
    if not (isinstance(key, jax.Array) and jnp.issubdtype(key.dtype, jax.dtypes.prng_key)):
        kind = f"an array of {key.dtype}" if hasattr(key, "dtype") else repr(key)
        raise ValueError(
            f"key is {kind}; make it by jax.random.key(seed), or wrap an old jax.random.PRNGKey by "
            "jax.random.wrap_key_data."
        )


def mappable(key: Key[Array, "..."]) -> Key[Array, "..."]:
    """The keys for draws under vmap, which must not depend on the size of the batch.

    A key of another generator than `IMPL` becomes one of that, by the first words of its data.
    """
    if str(jax.random.key_impl(key)) == IMPL:
        return key
    return jax.random.wrap_key_data(jax.random.key_data(key)[..., :2], impl=IMPL)
