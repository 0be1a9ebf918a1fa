"""Sums over many steps are float32: bfloat16 rounds away whatever is below 1/256 of the sum."""

from typing import Any

import jax
import jax.numpy as jnp
import optax


def wide(dtype: Any) -> Any:
    """float32 for narrower types of float; any other type as it is."""
    is_float = jnp.issubdtype(dtype, jnp.floating)
    return jnp.promote_types(dtype, jnp.float32) if is_float else dtype


def widened(tree: Any) -> Any:
    """The tree with narrow floats as float32."""
    return jax.tree.map(lambda leaf: leaf.astype(wide(leaf.dtype)), tree)


def check_weights(params: Any) -> None:
    """Raises a ValueError if weights are narrower than float32, so that training would stall."""
    for path, leaf in jax.tree.leaves_with_path(params):
        if leaf.dtype != wide(leaf.dtype):
            raise ValueError(
                f"params{jax.tree_util.keystr(path)} is {leaf.dtype}, which rounds small updates "
                "of a weight away; train float32 weights (param_dtype='float32'), and compute in "
                "bfloat16 by dtype='bfloat16'."
            )


def in_float32(optimizer: optax.GradientTransformation) -> optax.GradientTransformationExtraArgs:
    """The optimiser with gradients, weights and its state in float32, whatever type they have."""
    inner = optax.with_extra_args_support(optimizer)

    def init(params: Any) -> Any:
        return inner.init(widened(params))

    def update(updates: Any, state: Any, params: Any = None, **extra: Any) -> tuple[Any, Any]:
        return inner.update(widened(updates), state, widened(params), **extra)

    return optax.GradientTransformationExtraArgs(init, update)
