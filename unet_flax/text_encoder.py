"""A small transformer that reads the tokens of a text, trained from scratch with its U-Net.

h = table[text] + position
h = h + heads(norm(h)),  h = h + mlp(norm(h))    in each layer
context = norm(h)

Token 0 is padding. The null text, for guidance, is padding alone: its first token counts, so that
there is always something to attend to.
"""

from dataclasses import dataclass
from typing import Any

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Integer

from unet_flax.attention import Heads
from unet_flax.embeddings import INIT
from unet_flax.mesh import sharding_of
from unet_flax.rules import or_none, settle, whole
from unet_flax.sizes import known


@dataclass(frozen=True)
class TextEncoderConfig:
    """Everything that decides the text encoder's shape.

    Attributes:
      vocab_size: number of different tokens, padding included; None is not known yet.
      num_tokens: tokens of a text, padding included; None is not known yet.
      channels: width of the context; a multiple of num_heads.
      num_layers: transformer layers; 0 leaves the table of tokens and their positions.
      num_heads: attention heads.
      mlp_ratio: width of the hidden layer of each MLP, as a multiple of `channels`.
    Raises:
      ValueError: a value is outside its range, or num_heads does not divide channels.
    """

    vocab_size: int | None = None
    num_tokens: int | None = None
    channels: int = 64
    num_layers: int = 2
    num_heads: int = 4
    mlp_ratio: int = 2

    def __post_init__(self):
        settle(self, vocab_size=or_none(whole(2)), num_tokens=or_none(whole()))
        settle(self, channels=whole(), num_layers=whole(0), num_heads=whole(), mlp_ratio=whole())
        if self.channels % self.num_heads:
            raise ValueError(
                f"num_heads={self.num_heads} does not divide channels={self.channels} of the text "
                "encoder; use a divisor."
            )


class TextEncoder(nnx.Module):
    """Context vectors of a text's tokens, and which of them count.

    Args:
      config: its vocab_size and num_tokens must be known.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.1; normalised before each layer as in
      Radford et al. 2019 (GPT-2), without a causal mask.
    """

    def __init__(
        self,
        config: TextEncoderConfig,
        *,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        vocab_size = known("vocab_size", config.vocab_size)
        num_tokens = known("num_tokens", config.num_tokens)
        types = dict(dtype=dtype, param_dtype=param_dtype)
        self.config, self.dtype = config, dtype
        draw = nnx.initializers.normal(1.0)
        self.table = nnx.Param(draw(rngs.params(), (vocab_size, config.channels), param_dtype))
        self.position = nnx.Param(
            nnx.initializers.normal(0.1)(rngs.params(), (num_tokens, config.channels), param_dtype)
        )
        self.layers = nnx.List(
            [TextLayer(config, rngs=rngs, **types) for _ in range(config.num_layers)]
        )
        self.norm_out = nnx.LayerNorm(config.channels, rngs=rngs, **types)

    def __call__(
        self, text: Integer[Array, "B L"]
    ) -> tuple[Float[Array, "B L D"], Bool[Array, "B L"]]:
        """Reads texts.

        Args:
          text: tokens in [0, vocab_size), 0 for padding; any other number gives NaN.
        Returns:
          (context, mask): mask is True for tokens that count: all but padding, and the first.
        """
        table = self.table[...]
        row = jnp.where(text < 0, len(table), text)  # a negative index would count from the end
        found = table.at[row].get(mode="fill", out_sharding=sharding_of(row, table.ndim + 1))
        h = found.astype(self.dtype)
        h = h + self.position[...][None].astype(self.dtype)
        is_first = jnp.arange(text.shape[1])[None] == 0
        mask = (text != 0) | is_first
        for layer in self.layers:
            h = layer(h, mask)
        return self.norm_out(h), mask


class TextLayer(nnx.Module):
    """Self-attention and an MLP, each added to its input; starts as the identity."""

    def __init__(self, config: TextEncoderConfig, *, rngs: nnx.Rngs, **types: Any):
        width, hidden = config.channels, config.mlp_ratio * config.channels
        self.norm_attention = nnx.LayerNorm(width, rngs=rngs, **types)
        self.heads = Heads(width, width, config.num_heads, qk_norm=False, rngs=rngs, **types)
        self.norm_mlp = nnx.LayerNorm(width, rngs=rngs, **types)
        self.linear_in = nnx.Linear(width, hidden, kernel_init=INIT, rngs=rngs, **types)
        self.linear_out = nnx.Linear(
            hidden, width, kernel_init=nnx.initializers.zeros, rngs=rngs, **types
        )

    def __call__(self, h: Float[Array, "B L D"], mask: Bool[Array, "B L"]) -> Float[Array, "B L D"]:
        normed = self.norm_attention(h)
        h = h + self.heads(normed, normed, mask)
        return h + self.linear_out(nnx.gelu(self.linear_in(self.norm_mlp(h))))


def pooled(context: Float[Array, "B L D"], mask: Bool[Array, "B L"]) -> Float[Array, "B D"]:
    """The mean of the context vectors that count."""
    weight = mask.astype(context.dtype)[..., None]
    return (weight * context).sum(1) / weight.sum(1)
