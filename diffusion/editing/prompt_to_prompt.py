"""Prompt-to-prompt: an image drawn under another text keeps the layout of the one under its own.

    both = dm.denoiser(network, params, preconditioning, text=jnp.concatenate([source, target]))
    mapper, is_mapped = dm.align_tokens(source_words, target_words, source.shape[1])
    denoise = dm.prompt_to_prompt(both, mapper, is_mapped, sigmas, cross=0.8, own=0.4)
    x_T = jnp.concatenate([noise, noise])
    before, after = jnp.split(sampler(denoise, x_T, sigmas, key), 2)

Both images are drawn in one batch, the source's first. In the first steps the second attends to its
text where the first attends to its own ("word swap" and "adding a phrase"); `scale` makes single
tokens count more or less ("attention re-weighting"). With `ddpm_invert` the source is a real image.

Source: Hertz et al. 2022, arXiv:2208.01626, section 3.
"""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from diffusion.denoiser import Denoise, Denoiser, Sigma
from diffusion.ranges import demand


def align_tokens(
    source: Sequence[str], target: Sequence[str], length: int
) -> tuple[Float[np.ndarray, "S S"], Bool[np.ndarray, "S"]]:
    """Which tokens of two texts correspond.

    Equal tokens correspond in order; tokens that stand in place of others share their attention
    evenly; tokens that are added correspond to none. What follows the texts corresponds in order.

    Args:
      source, target: tokens, at most `length`, without padding.
      length: S, the number of tokens that the network reads.
    Returns:
      (mapper, is_mapped): mapper[i, j] is the share of source token i in target token j; is_mapped
      whether target token j has any.
    Raises:
      ValueError: a text is longer than that.
    Source: arXiv:2208.01626, section 3.2, with the mappers of its code.
    """
    for name, tokens in {"source": source, "target": target}.items():
        if len(tokens) > length:
            raise ValueError(f"{name} has {len(tokens)} tokens, more than length={length}.")
    mapper = np.zeros((length, length), np.float32)
    matcher = difflib.SequenceMatcher(None, source, target, autojunk=False)
    for kind, i_first, i_last, j_first, j_last in matcher.get_opcodes():
        if kind == "equal":
            mapper[range(i_first, i_last), range(j_first, j_last)] = 1
        elif kind == "replace" and i_last - i_first == j_last - j_first:
            mapper[range(i_first, i_last), range(j_first, j_last)] = 1
        elif kind == "replace":
            mapper[i_first:i_last, j_first:j_last] = 1 / (j_last - j_first)
    rest = min(length - len(source), length - len(target))
    paddings = range(len(source), len(source) + rest), range(len(target), len(target) + rest)
    mapper[paddings] = 1
    return mapper, mapper.sum(0) > 0


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class PromptToPrompt:
    """See `prompt_to_prompt`."""

    both: Denoiser
    mapper: Any
    is_mapped: Any
    scale: Any
    cross_sigma: Any
    self_sigma: Any

    def __call__(self, x_t: Float[Array, "B ..."], sigma: Sigma) -> Float[Array, "B ..."]:
        level = jnp.max(jnp.asarray(sigma))
        edit = {
            "mapper": self.mapper,
            "cross_share": jnp.where(level > self.cross_sigma, self.is_mapped, 0.0),
            "self_share": jnp.where(level > self.self_sigma, 1.0, 0.0),
            "scale": self.scale,
        }
        return replace(self.both, cond=self.both.cond | {"attention_edit": edit})(x_t, sigma)


def prompt_to_prompt(
    both: Denoiser,
    mapper: Float[np.ndarray, "S S"],
    is_mapped: Bool[np.ndarray, "S"],
    sigmas: Float[Array, "N"],
    *,
    cross: float = 0.8,
    own: float = 0.4,
    scale: Float[np.ndarray, "S"] | None = None,
) -> Denoise:
    """The denoiser of a batch of source images and as many targets, which attend as these do.

    Args:
      both: the denoiser of such a batch, of a network that takes `attention_edit`.
      mapper, is_mapped: see `align_tokens`.
      sigmas: the grid to sample on.
      cross: share of the steps, from the first, in which attention to the text is the source's, in
        [0, 1].
      own: the same for attention of the image to itself.
      scale: factor of the attention to each target token; None is 1 for all.
    Raises:
      ValueError: a share is outside [0, 1].
    Source: arXiv:2208.01626, section 3.2; the defaults are those of its code.
    """
    demand("[0, 1]", cross=cross, own=own)
    sigmas = jnp.asarray(sigmas)
    last = len(sigmas) - 1
    return PromptToPrompt(
        both,
        jnp.asarray(mapper),
        jnp.asarray(is_mapped, jnp.float32),
        jnp.ones(len(is_mapped)) if scale is None else jnp.asarray(scale, jnp.float32),
        sigmas[round(cross * last)],
        sigmas[round(own * last)],
    )
