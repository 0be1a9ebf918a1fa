"""The gradient's global norm, and the bound on it."""

from collections import defaultdict
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from diffusion.ranges import demand


def global_norm(tree: Any) -> Float[Array, ""]:
    """The Euclidean norm of all leaves together, as `optax.tree.norm`.

    Vectors of one length are summed as one array: two thirds of a U-Net's leaves are biases and
    scales, and XLA compiles and loads one sum in the time of another, however short. Sums are in
    float32 or more: of many bfloat16 leaves one in their own type stands still.
    """
    kernels, vectors = [], defaultdict(list)
    for leaf in jax.tree.leaves(tree):
        leaf = leaf.astype(jnp.promote_types(leaf.dtype, jnp.float32))
        (kernels if leaf.ndim > 1 else vectors[leaf.shape]).append(leaf)
    return optax.tree.norm([kernels, [jnp.stack(alike) for alike in vectors.values()]])


def clip_by_grad_norm(max_norm: float) -> optax.GradientTransformationExtraArgs:
    """As `optax.clip_by_global_norm`, with the norm that `make_train_step` has already.

    The step gives it as `update(..., grad_norm=...)`; elsewhere it is computed. It is that of the
    whole gradient, which must be what this is given: it stands first in the outermost chain, not
    within `optax.partition` or `optax.masked`, nor after another transformation.

    Args:
      max_norm: largest norm that is left as it is, > 0.
    """
    demand("(0, inf)", max_norm=max_norm)

    def update(
        updates: Any, state: Any, params: Any = None, *, grad_norm: Array | None = None, **_: Any
    ) -> tuple[Any, Any]:
        norm = global_norm(updates) if grad_norm is None else grad_norm
        factor = jnp.minimum(1, max_norm / norm)
        return jax.tree.map(lambda grad: factor.astype(grad.dtype) * grad, updates), state

    return optax.GradientTransformationExtraArgs(optax.init_empty_state, update)
