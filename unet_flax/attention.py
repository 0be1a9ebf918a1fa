"""Attention of the positions of a feature map to each other, or to a context such as text."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Bool, Float

from unet_flax.attention_edit import AttentionEdit, edited_cross, edited_self
from unet_flax.blocks import INIT, GroupNorm, identity


class Heads(nnx.Module):
    """Multi-head attention of tokens to a source: proj(softmax(q k^T / sqrt(D)) v).

    The softmax is float32 whatever the compute type. The projection is zero at initialisation.

    Args:
      channels: width of the tokens; a multiple of num_heads where head_dim is None.
      source_channels: width of the source.
      num_heads: number of heads.
      head_dim: D, width of a head, or None for channels / num_heads.
      out_channels: width of the result, or None for that of the tokens.
      qk_norm: whether each head's queries and keys are normalised to unit mean square, with a
        learned scale; keeps the logits from growing.
    Source: Vaswani et al. 2017, arXiv:1706.03762, section 3.2; qk_norm Henry et al. 2020,
      arXiv:2010.04245, by RMS norm as in Dehghani et al. 2023, arXiv:2302.05442.
    """

    def __init__(
        self,
        channels: int,
        source_channels: int,
        num_heads: int,
        *,
        head_dim: int | None = None,
        out_channels: int | None = None,
        qk_norm: bool,
        dtype: DTypeLike,
        param_dtype: DTypeLike,
        rngs: nnx.Rngs,
    ):
        if head_dim is None and channels % num_heads:
            raise ValueError(
                f"num_heads={num_heads} does not divide {channels} channels; "
                "use a divisor, or head_dim."
            )
        common: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.num_heads = num_heads
        head_dim = head_dim or channels // num_heads
        inner = num_heads * head_dim
        self.query = nnx.Linear(channels, inner, kernel_init=INIT, **common)
        self.key = nnx.Linear(source_channels, inner, kernel_init=INIT, **common)
        self.value = nnx.Linear(source_channels, inner, kernel_init=INIT, **common)
        self.proj = nnx.Linear(
            inner, out_channels or channels, kernel_init=nnx.initializers.zeros, **common
        )
        self.query_norm = nnx.RMSNorm(head_dim, **common) if qk_norm else identity
        self.key_norm = nnx.RMSNorm(head_dim, **common) if qk_norm else identity

    def __call__(
        self,
        tokens: Float[Array, "B L C"],
        source: Float[Array, "B S D"],
        mask: Bool[Array, "B S"] | None = None,
        edited: Callable[[Array], Array] = identity,
    ) -> Float[Array, "B L out"]:
        """mask is True for what is attended to; edited changes the weights (B, heads, L, S)."""
        q = self.query_norm(self._split(self.query(tokens)))
        k = self.key_norm(self._split(self.key(source)))
        v = self._split(self.value(source))
        # products of the last two axes: XLA copies less than for those of jax.nn's attention
        logits = jnp.matmul(q, k.mT, preferred_element_type=jnp.float32) / math.sqrt(q.shape[-1])
        if mask is not None:
            logits = jnp.where(mask[:, None, None, :], logits, jnp.finfo(jnp.float32).min)
        attended = edited(jax.nn.softmax(logits)).astype(v.dtype) @ v
        return self.proj(attended.swapaxes(1, 2).reshape(*tokens.shape[:2], -1))

    def _split(self, tokens: Float[Array, "B L inner"]) -> Float[Array, "B heads L head_dim"]:
        B, L, inner = tokens.shape
        return tokens.reshape(B, L, self.num_heads, inner // self.num_heads).swapaxes(1, 2)


class SelfAttention(nnx.Module):
    """Every position attends to every other: skip_scale * (x + heads(norm(x))).

    The block starts as the identity (times skip_scale).

    Args:
      channels: C of the feature map.
      num_heads, head_dim: see `Heads`.
      normalised: whether the input is normalised first; only diffusers' middle may leave it out.
      qk_norm: see `Heads`.
      skip_scale: 1/sqrt(2) keeps the variance of the sum.
      num_groups, norm_eps: of the normalisation.
    Source: Ho et al. 2020, arXiv:2006.11239, appendix B; heads as in Nichol & Dhariwal 2021,
      arXiv:2102.09672.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 1,
        *,
        head_dim: int | None = None,
        normalised: bool = True,
        qk_norm: bool = False,
        skip_scale: float = 1.0,
        num_groups: int = 32,
        norm_eps: float = 1e-6,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        types: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype)
        self.skip_scale = skip_scale
        self.norm = GroupNorm(channels, num_groups, norm_eps, **types) if normalised else identity
        self.heads = Heads(
            channels, channels, num_heads, head_dim=head_dim, qk_norm=qk_norm, rngs=rngs, **types
        )

    def __call__(
        self, x: Float[Array, "B *spatial C"], edit: AttentionEdit | None = None
    ) -> Float[Array, "B *spatial C"]:
        tokens = _tokens(self.norm(x))
        edited = identity if edit is None else partial(edited_self, edit=edit)
        attended = self.heads(tokens, tokens, edited=edited)
        return self.skip_scale * (x + attended.reshape(x.shape))


class CrossAttention(nnx.Module):
    """Every position attends to a context's tokens: skip_scale * (x + heads(norm(x), context)).

    Args:
      channels: C of the feature map.
      context_channels: D of the context, such as text.
      num_heads, head_dim, qk_norm, skip_scale, num_groups, norm_eps: as in `SelfAttention`.
    Source: Rombach et al. 2022, arXiv:2112.10752, section 3.3; without their feed-forward layer.
    """

    def __init__(
        self,
        channels: int,
        context_channels: int,
        num_heads: int = 1,
        *,
        head_dim: int | None = None,
        qk_norm: bool = False,
        skip_scale: float = 1.0,
        num_groups: int = 32,
        norm_eps: float = 1e-6,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        types: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype)
        self.skip_scale = skip_scale
        self.norm = GroupNorm(channels, num_groups, norm_eps, **types)
        self.heads = Heads(
            channels,
            context_channels,
            num_heads,
            head_dim=head_dim,
            qk_norm=qk_norm,
            rngs=rngs,
            **types,
        )

    def __call__(
        self,
        x: Float[Array, "B *spatial C"],
        context: Float[Array, "B S D"],
        context_mask: Bool[Array, "B S"] | None = None,
        edit: AttentionEdit | None = None,
    ) -> Float[Array, "B *spatial C"]:
        """context_mask is True for tokens that count; each image needs one that does."""
        edited = identity if edit is None else partial(edited_cross, edit=edit)
        attended = self.heads(_tokens(self.norm(x)), context, context_mask, edited)
        return self.skip_scale * (x + attended.reshape(x.shape))


class AttentionPool(nnx.Module):
    """One vector of a whole feature map: the mean position attends to all positions and itself.

    y = proj(attention(mean + e_0; mean + e_0, x_1 + e_1, ..., x_L + e_L)),  e_i learned

    The result is zero at initialisation.

    Args:
      positions: L, number of positions of the feature map.
      channels: C of the feature map; a multiple of head_dim.
      out_channels: width of y.
      head_dim: width of an attention head.
    Source: Radford et al. 2021, arXiv:2103.00020, section 2.4; in ADM's classifiers Dhariwal &
      Nichol 2021, arXiv:2105.05233, section 4. Deviation: proj is zero at initialisation.
    """

    def __init__(
        self,
        positions: int,
        channels: int,
        out_channels: int,
        head_dim: int,
        *,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        types: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype)
        init = nnx.initializers.normal(channels**-0.5)
        self.position = nnx.Param(init(rngs.params(), (positions + 1, channels), param_dtype))
        self.heads = Heads(
            channels, channels, channels // head_dim, head_dim=head_dim, qk_norm=False,
            out_channels=out_channels, rngs=rngs, **types,
        )  # fmt: skip

    def __call__(self, x: Float[Array, "B *spatial C"]) -> Float[Array, "B out"]:
        tokens = _tokens(x)
        tokens = jnp.concatenate([tokens.mean(1, keepdims=True), tokens], axis=1)
        tokens = tokens + self.position[...][None].astype(tokens.dtype)
        return self.heads(tokens[:, :1], tokens)[:, 0]


def _tokens(x: Float[Array, "B *spatial C"]) -> Float[Array, "B L C"]:
    return x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])
