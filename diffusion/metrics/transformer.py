"""What vision transformers are made of, in PyTorch's layout: a weight is (out, in)."""

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Weights = Mapping[str, Float[Array, "..."]]


def along_last(vector: Float[Array, "E"], x: Float[Array, "*B E"]) -> Float[Array, "..."]:
    """The vector, with the rank of x."""
    return vector.reshape((1,) * (x.ndim - 1) + vector.shape)


def linear(weights: Weights, name: str, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
    h = x @ weights[f"{name}.weight"].T
    return h + along_last(weights[f"{name}.bias"], h)


def layer_norm(
    weights: Weights, name: str, x: Float[Array, "*B E"], *, eps: float
) -> Float[Array, "*B E"]:
    x = x - x.mean(-1, keepdims=True)
    x = x / jnp.sqrt(jnp.square(x).mean(-1, keepdims=True) + eps)
    return x * along_last(weights[f"{name}.weight"], x) + along_last(weights[f"{name}.bias"], x)


def attention(
    queries: Float[Array, "B L E"],
    keys: Float[Array, "B L E"],
    values: Float[Array, "B L E"],
    head_dim: int,
) -> Float[Array, "B L E"]:
    B, L, E = queries.shape
    heads = (B, L, E // head_dim, head_dim)
    h = jax.nn.dot_product_attention(*(x.reshape(heads) for x in (queries, keys, values)))
    return h.reshape(B, L, E)


def patches(x: Float[Array, "B H W 3"], kernel: Float[Array, "E 3 P P"]) -> Float[Array, "B L E"]:
    """The projections of the squares that an image is cut into, row by row."""
    stride = kernel.shape[2:]
    h = jax.lax.conv_general_dilated(
        x, kernel, stride, "VALID", dimension_numbers=("NHWC", "OIHW", "NHWC")
    )
    return h.reshape(h.shape[0], -1, h.shape[-1])


def num_blocks(params: Mapping[str, object], prefix: str) -> int:
    """One more than the highest number that follows the prefix in a name; at least 1."""
    found = (re.match(rf"{re.escape(prefix)}(\d+)\.", name) for name in params)
    return 1 + max((int(match[1]) for match in found if match), default=0)


def stacked(params: Weights, prefix: str) -> dict[str, Float[Array, "N ..."]]:
    """The arrays of equal blocks under the names that they have in a block."""
    first = f"{prefix}0."
    names = [name.removeprefix(first) for name in params if name.startswith(first)]
    blocks = range(num_blocks(params, prefix))
    return {name: jnp.stack([params[f"{prefix}{i}.{name}"] for i in blocks]) for name in names}
