"""Prompt-to-prompt for `sample.py`: images under a text keep the layout they have under another."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

import diffusion as dm
from commands.edits import Edit, Parts, with_rows
from diffusion.data.text.texts import TextReader
from diffusion.denoiser import Denoise, Denoiser


@dataclass(frozen=True, eq=False)
class Alignment:
    """Which tokens of two texts correspond, see `dm.align_tokens`, and how much each counts.

    Attributes:
      scale: factor of the attention to each token of the second text.
    """

    mapper: Float[np.ndarray, "S S"]
    is_mapped: Bool[np.ndarray, "S"]
    scale: Float[np.ndarray, "S"]


def aligned(
    reader: TextReader, source: str, target: str, emphasis: Sequence[tuple[str, float]]
) -> Alignment:
    """The alignment of two texts.

    Args:
      emphasis: words of the second text, and factors of the attention to them.
    Raises:
      ValueError: a word is not in the text, as it is read.
    """
    tokens = reader.tokens(target)
    mapper, is_mapped = dm.align_tokens(reader.tokens(source), tokens, reader.num_tokens)
    scale = np.ones(reader.num_tokens, np.float32)
    for word, factor in emphasis:
        parts = reader.tokens(word)
        found = [
            start
            for start in range(len(tokens) - len(parts) + 1)
            if parts and tokens[start : start + len(parts)] == parts
        ]
        if not found:
            raise ValueError(f"--emphasize {word}={factor:g}: {target!r} has no such word.")
        for start in found:
            scale[start : start + len(parts)] = factor
    return Alignment(mapper, is_mapped, scale)


@dataclass(frozen=True)
class KeepAttention(Edit):
    """Draws each image beside one under another text, and attends as that one does.

    Attributes:
      base: how the other image is drawn: from noise, or again with its own noise.
      source: the conditions of the other text, of one row.
      alignment: of the two texts.
      cross, own: see `dm.prompt_to_prompt`.
    """

    base: Edit
    source: dict[str, np.ndarray]
    alignment: Alignment
    cross: float
    own: float

    def parts(self, pipeline, batch, eps, sigmas, index, keys):
        of_source = with_rows(batch, self.source)
        both = {name: jnp.concatenate([of_source[name], batch[name]]) for name in batch}
        doubled = replace(pipeline, attention=partial(self._kept, sigmas=sigmas))
        twice: Any = partial(jnp.concatenate, axis=0)
        keys = twice([keys, keys])
        index = np.concatenate([index, index])
        parts = self.base.parts(doubled, both, twice([eps, eps]), sigmas, index, keys)
        return Parts(*parts[:4], keys=keys, first=len(eps))

    def _kept(self, both: Denoiser, sigmas: Float[Array, "S"]) -> Denoise:
        found = self.alignment
        return dm.prompt_to_prompt(
            both,
            found.mapper,
            found.is_mapped,
            sigmas,
            cross=self.cross,
            own=self.own,
            scale=found.scale,
        )

    @property
    def uses_image(self):
        return self.base.uses_image
