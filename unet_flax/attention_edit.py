"""Prompt-to-prompt: the second half of a batch attends as the first half does.

The first half of the batch is drawn under the source's text, the second under the target's. The
weights A of the second half are replaced, by the share s of each, before they meet the values:

    cross-attention   A_target[l, j] = scale_j (s_j sum_i A_source[l, i] mapper[i, j]
                                                + (1 - s_j) A_target[l, j])
    self-attention    A_target = s A_source + (1 - s) A_target    on maps of at most 16 x 16

Source: Hertz et al. 2022, arXiv:2208.01626, section 3: word swap, adding a phrase, attention
  re-weighting. Self-attention on small maps alone is that of its code.
"""

from typing import Any, TypedDict

import jax.numpy as jnp
from jaxtyping import Array, Float

MOST_POSITIONS = 16**2
"""Positions of the largest map whose self-attention is replaced."""


class AttentionEdit(TypedDict):
    """How the second half of a batch attends; a plain dict of arrays, so that it can be traced.

    Attributes:
      mapper: share of each source token i in target token j.
      cross_share: s of each target token, in [0, 1]; 0 where no source token corresponds.
      self_share: s of self-attention, in [0, 1].
      scale: factor of the attention to each target token.
    """

    mapper: Float[Array, "S S"]
    cross_share: Float[Array, "S"]
    self_share: Float[Array, ""]
    scale: Float[Array, "S"]


def edited_cross(
    weights: Float[Array, "B heads L S"], edit: AttentionEdit
) -> Float[Array, "B heads L S"]:
    """Weights of cross-attention, those of the second half of the batch replaced."""
    source, target = jnp.split(weights, 2)
    share, scale = edit["cross_share"][None, None, None], edit["scale"][None, None, None]
    mapped = jnp.matmul(source, edit["mapper"].astype(source.dtype))
    return jnp.concatenate([source, scale * (share * mapped + (1 - share) * target)])


def edited_self(
    weights: Float[Array, "B heads L L"], edit: AttentionEdit
) -> Float[Array, "B heads L L"]:
    """Weights of self-attention, those of the second half of the batch replaced."""
    if weights.shape[-1] > MOST_POSITIONS:
        return weights
    source, target = jnp.split(weights, 2)
    share = edit["self_share"]
    return jnp.concatenate([source, share * source + (1 - share) * target])


def check(edit: AttentionEdit, batch: int, num_tokens: int) -> None:
    """Raises a ValueError unless the edit fits a batch and its context."""
    if batch % 2:
        raise ValueError(
            f"attention_edit needs a batch of source images and as many targets, not {batch}."
        )
    shapes = dict(mapper=(num_tokens, num_tokens), cross_share=(num_tokens,), self_share=(),
                  scale=(num_tokens,))  # fmt: skip
    arrays: dict[str, Any] = {**edit}
    found = {name: jnp.shape(array) for name, array in arrays.items()}
    if found != shapes:
        raise ValueError(f"attention_edit of shapes {found} does not fit; it needs {shapes}.")
