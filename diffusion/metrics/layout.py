"""Whether a dictionary of arrays is the published file that a feature network reads."""

from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Params = Mapping[str, np.ndarray | jax.Array]
"""The arrays of a file by the names that it gives them; those that no network needs are ignored.

Put them on the device once (`jax.device_put`), or every call sends them there.
"""
Shape = tuple[int | None, ...]


def require_layout(
    params: Mapping[str, Any], expected: Iterable[tuple[str, Shape]], file: str
) -> None:
    """Compares the shapes of arrays with those that are expected, None being any length.

    The expected ones are asked for one after another, so that they may depend on earlier arrays.

    Raises:
      ValueError: naming the first array that is missing or misshapen.
    """
    for name, shape in expected:
        if name not in params:
            raise ValueError(f"the weights lack {name}; use {file}.")
        found = params[name].shape
        if len(found) != len(shape) or any(
            length not in (None, own) for own, length in zip(found, shape, strict=True)
        ):
            lengths = ", ".join("any" if length is None else str(length) for length in shape)
            raise ValueError(f"{name} has the shape {found} in place of ({lengths}); use {file}.")


def as_float32(params: Params) -> dict[str, Float[Array, "..."]]:
    """The arrays in the type in which features are computed, whatever the file stores."""
    return {name: jnp.asarray(array, jnp.float32) for name, array in params.items()}
