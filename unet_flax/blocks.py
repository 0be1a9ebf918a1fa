"""The parts of which every level of the U-Net is made."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key


class GroupNorm(nnx.Module):
    """Normalises each group of channels of each image to mean 0 and variance 1.

    y = (x - mean) / sqrt(var + eps) * scale + bias

    Mean, 1/std, scale and bias are folded into one multiply-add per channel. Statistics are
    float32 whatever the compute type, and var = E[x^2] - E[x]^2: exact to about 1e-7 of the mean
    square, which is ample for features whose mean does not dwarf their spread.

    Args:
      channels: C of the input; a multiple of num_groups.
      num_groups: number of groups G; each holds C / G neighbouring channels.
      eps: added to the variance, so that a constant image divides by no zero.
    Source: Wu & He 2018, arXiv:1803.08494.
    """

    def __init__(
        self,
        channels: int,
        num_groups: int = 32,
        eps: float = 1e-6,
        *,
        dtype: DTypeLike = jnp.float32,
    ):
        if channels % num_groups:
            raise ValueError(
                f"num_groups={num_groups} does not divide {channels} channels; "
                "use a divisor, such as num_groups=8 for narrow networks."
            )
        self.num_groups = num_groups
        self.eps = eps
        self.dtype = dtype
        self.scale = nnx.Param(jnp.ones(channels))
        self.bias = nnx.Param(jnp.zeros(channels))

    def __call__(self, x: Float[Array, "B *spatial C"]) -> Float[Array, "B *spatial C"]:
        spatial = tuple(range(1, x.ndim - 1))
        x = x.astype(jnp.float32)
        mean = self._group_mean(x.mean(spatial))
        var = self._group_mean(jnp.square(x).mean(spatial)) - jnp.square(mean)
        # rounding may leave a constant image's variance below zero
        rstd = jax.lax.rsqrt(jnp.maximum(var, 0.0) + self.eps)
        scale = rstd * self.scale[None, :]
        shift = self.bias[None, :] - mean * scale
        scale, shift = (jnp.expand_dims(v, spatial) for v in (scale, shift))
        return (x * scale + shift).astype(self.dtype)

    def _group_mean(self, v: Float[Array, "B C"]) -> Float[Array, "B C"]:
        B, C = v.shape
        group = v.reshape(B, self.num_groups, C // self.num_groups).mean(-1)  # (B, G)
        return jnp.repeat(group, C // self.num_groups, axis=1)


def identity(x: Array) -> Array:
    """Stands where nothing is to be done; a named function, so that equal networks are equal."""
    return x


class ResBlock(nnx.Module):
    """Two 3x3 convolutions around the noise embedding, added to a skip path.

    h = conv_in(silu(norm_in(x))) + emb_proj(silu(emb))
    y = skip(x) + conv_out(dropout(silu(norm_out(h))))

    The skip path is the identity, or a 1x1 convolution where the width changes.

    Args:
      in_channels, out_channels: width before and after.
      emb_channels: E, width of the embedding.
      num_groups, norm_eps: of both normalisations.
      dropout: rate in [0, 1), active where a dropout_key is given.
    Source: Ho et al. 2020, arXiv:2006.11239, appendix B. Deviation: conv_out is exactly zero at
      initialisation, where theirs is scaled by 1e-10.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int,
        *,
        num_groups: int = 32,
        norm_eps: float = 1e-6,
        dropout: float = 0.0,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        init = nnx.initializers.xavier_uniform()
        self.norm_in = GroupNorm(in_channels, num_groups, norm_eps, dtype=dtype)
        self.conv_in = nnx.Conv(
            in_channels, out_channels, (3, 3), kernel_init=init, dtype=dtype, rngs=rngs
        )
        self.emb_proj = nnx.Linear(
            emb_channels, out_channels, kernel_init=init, dtype=dtype, rngs=rngs
        )
        self.norm_out = GroupNorm(out_channels, num_groups, norm_eps, dtype=dtype)
        self.dropout = nnx.Dropout(dropout)
        self.conv_out = nnx.Conv(
            out_channels,
            out_channels,
            (3, 3),
            kernel_init=nnx.initializers.zeros,
            dtype=dtype,
            rngs=rngs,
        )
        self.skip = (
            identity
            if in_channels == out_channels
            else nnx.Linear(in_channels, out_channels, kernel_init=init, dtype=dtype, rngs=rngs)
        )

    def __call__(
        self,
        x: Float[Array, "B H W C"],
        emb: Float[Array, "B E"],
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B H W out"]:
        h = self.conv_in(nnx.silu(self.norm_in(x)))
        h = h + self.emb_proj(nnx.silu(emb))[:, None, None, :]
        h = nnx.silu(self.norm_out(h))
        h = self.dropout(h, deterministic=dropout_key is None, rngs=dropout_key)
        return self.skip(x) + self.conv_out(h)  # conv_out is zero at init: starts as its skip path


class Downsample(nnx.Module):
    """Halves height and width by a 3x3 convolution of stride 2.

    Padding is TensorFlow's SAME, which on even sizes adds one row below and one column to the
    right; PyTorch's `padding=1` adds one on every side instead.

    Source: Ho et al. 2020, arXiv:2006.11239, appendix B.
    """

    def __init__(self, channels: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.conv = nnx.Conv(
            channels,
            channels,
            (3, 3),
            strides=2,
            kernel_init=nnx.initializers.xavier_uniform(),
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H//2 W//2 C"]:
        return self.conv(x)


class Upsample(nnx.Module):
    """Doubles height and width by repeating each pixel, then smooths by a 3x3 convolution.

    Source: Ho et al. 2020, arXiv:2006.11239, appendix B.
    """

    def __init__(self, channels: int, *, dtype: DTypeLike = jnp.float32, rngs: nnx.Rngs):
        self.conv = nnx.Conv(
            channels,
            channels,
            (3, 3),
            kernel_init=nnx.initializers.xavier_uniform(),
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B 2*H 2*W C"]:
        B, H, W, C = x.shape
        x = jnp.broadcast_to(x[:, :, None, :, None, :], (B, H, 2, W, 2, C))
        return self.conv(x.reshape(B, 2 * H, 2 * W, C))
