"""The gradient's global norm, and clipping by it."""

from collections import defaultdict
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from diffusion.ranges import demand


def global_norm(tree: Any) -> Float[Array, ""]:
    """The Euclidean norm of all leaves together, as `optax.tree.norm` computes it.

    Vectors of the same length are stacked and summed as one array: two thirds of a U-Net's leaves
    are biases and scales, and XLA takes as long to compile and load a short sum as a long one. Sums
    are in float32 or higher precision: a sum in bfloat16 stops growing once its terms are small
    against it.
    """
    kernels, vectors = [], defaultdict(list)
    for leaf in jax.tree.leaves(tree):
        leaf = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
        (kernels if leaf.ndim > 1 else vectors[leaf.shape]).append(leaf)
    return optax.tree.norm([kernels, [jnp.stack(alike) for alike in vectors.values()]])


def clip_by_grad_norm(max_norm: float) -> optax.GradientTransformationExtraArgs:
    """As `optax.clip_by_global_norm`, but reuses the norm that `make_train_step` has computed.

    The training step passes that norm as `update(..., grad_norm=...)`; without it, the norm is
    computed here. It is the norm of the whole, unchanged gradient. So this transformation must be
    the first of the outermost `optax.chain`, and not inside `optax.partition` or `optax.masked`.

    Args:
      max_norm: gradients of a larger norm are scaled down to this norm, > 0.
    """
    demand("(0, inf)", max_norm=max_norm)

    def update(
        updates: Any, state: Any, params: Any = None, *, grad_norm: Array | None = None, **_: Any
    ) -> tuple[Any, Any]:
        norm = global_norm(updates) if grad_norm is None else grad_norm
        factor = jnp.minimum(1, max_norm / norm)
        return jax.tree.map(lambda grad: factor.astype(grad.dtype) * grad, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
