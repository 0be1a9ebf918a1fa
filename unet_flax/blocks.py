"""The parts of which every level of the U-Net is made, in 1, 2 or 3 spatial dimensions."""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Key

from unet_flax import winograd

INIT = nnx.initializers.xavier_uniform()


ACTIVATIONS: dict[str, Callable[[Array], Array]] = dict(
    silu=nnx.silu, mish=jax.nn.mish, gelu=partial(nnx.gelu, approximate=False), relu=nnx.relu
)
"""Activations of residual blocks, by the names that configurations use."""


def identity(x: Array) -> Array:
    """Returns x. A named function, since networks that hold lambdas do not compare equal."""
    return x


def conv(
    in_channels: int,
    out_channels: int,
    *,
    dims: int = 2,
    kernel_size: int = 3,
    starts_at_zero: bool = False,
    **settings: Any,
) -> nnx.Conv:
    """A convolution over `dims` axes; padded to keep the size unless settings say otherwise."""
    init = nnx.initializers.zeros if starts_at_zero else INIT
    return nnx.Conv(
        in_channels,
        out_channels,
        (kernel_size,) * dims,
        kernel_init=init,
        conv_general_dilated=winograd.convolve,
        **settings,
    )


def over_space(v: Float[Array, "B V"], x: Float[Array, "B *spatial C"]) -> Float[Array, "B ... V"]:
    """Broadcasts (B, V) against images: one axis of length 1 for each spatial axis."""
    return jnp.expand_dims(v, tuple(range(1, x.ndim - 1)))


class GroupNorm(nnx.Module):
    """Normalises each group of channels of each image to mean 0 and variance 1.

    y = (x - mean) / sqrt(var + eps) * scale + bias

    Mean, 1/std, scale and bias are folded into one multiply-add per channel. Statistics are
    float32 whatever the compute type, and var = E[x^2] - E[x]^2, which cancels where the mean is
    large. Against float64, on normal features whose mean is r standard deviations, y is wrong by at
    most 1e-6 at r = 0 and 1, 6e-5 at 10, 6e-3 at 100 and 0.4 at 1000: about 6e-7 r^2. From
    r = 2000 or so nothing of the variance is left, and y is as large as 1/sqrt(eps). Centre such
    features first.

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
        param_dtype: DTypeLike = jnp.float32,
    ):
        if channels % num_groups:
            raise ValueError(
                f"num_groups={num_groups} does not divide {channels} channels; "
                "use a divisor, such as num_groups=8 for narrow networks."
            )
        self.num_groups = num_groups
        self.eps = eps
        self.dtype = dtype
        self.scale = nnx.Param(jnp.ones(channels, param_dtype))
        self.bias = nnx.Param(jnp.zeros(channels, param_dtype))

    def __call__(self, x: Float[Array, "B *spatial C"]) -> Float[Array, "B *spatial C"]:
        spatial = tuple(range(1, x.ndim - 1))
        x = x.astype(jnp.float32)
        # in this order: the gradient's last sum is then one of two images, which XLA keeps; a sum
        # of an image and a vector it would compute again for each of its readers
        mean_square = self._group_mean(jnp.square(x).mean(spatial))
        mean = self._group_mean(x.mean(spatial))
        var = mean_square - jnp.square(mean)
        # rounding may leave a constant image's variance below zero
        rstd = jax.lax.rsqrt(jnp.maximum(var, 0.0) + self.eps)
        scale = rstd * self.scale[None, :]
        shift = self.bias[None, :] - mean * scale
        return (x * over_space(scale, x) + over_space(shift, x)).astype(self.dtype)

    def _group_mean(self, v: Float[Array, "B C"]) -> Float[Array, "B C"]:
        B, C = v.shape
        group = v.reshape(B, self.num_groups, C // self.num_groups).mean(-1)  # (B, G)
        return jnp.repeat(group, C // self.num_groups, axis=1)


def dropout(
    x: Float[Array, "... C"], rate: float, key: Key[Array, ""] | None
) -> Float[Array, "... C"]:
    """Zeroes each value with probability `rate` and scales up the others, so that means stay.

    16 random bits decide, two values to a drawn word, for drawing is what it costs on a CPU. The
    rate is that of [0, 1) rounded to 2^-16, and the scale belongs to the rounded one. Without a key
    x itself.
    Source: Srivastava et al. 2014, JMLR 15, 1929.
    """
    dropped = min(round(rate * 2**16), 2**16 - 1)
    if key is None or dropped == 0:
        return x
    *leading, C = x.shape
    words = jax.random.bits(key, (*leading, (C + 1) // 2), jnp.uint32)
    halves = jax.lax.bitcast_convert_type(words, jnp.uint16)  # (..., C / 2, 2)
    is_kept = halves.reshape(*leading, -1)[..., :C] >= dropped
    return jnp.where(is_kept, x * (2**16 / (2**16 - dropped)), 0)


def shifted(norm: GroupNorm, h: Array, emb: Float[Array, "B C"]) -> Array:
    """The embedding is added before the normalisation, as in DDPM."""
    return norm(h + over_space(emb, h))


def scale_shifted(norm: GroupNorm, h: Array, emb: Float[Array, "B twice"]) -> Array:
    """The embedding scales and shifts what is normalised, as in ADM ("adaptive" GroupNorm)."""
    scale, shift = jnp.split(over_space(emb, h), 2, axis=-1)
    return norm(h) * (1 + scale) + shift


class ResBlock(nnx.Module):
    """Two 3x3 convolutions around the embedding, added to a skip path.

    h = conv_in(resample(act(norm_in(x))))
    h = norm_out(h + emb_proj(act(emb)))  or, with scale_shift, norm_out(h) (1 + scale) + shift,
        or, without an embedding, norm_out(h)
    y = skip_scale * (skip(resample(x)) + conv_out(dropout(act(h))))

    The skip path is the identity, or a 1x1 convolution where the width changes.

    Args:
      in_channels, out_channels: width before and after.
      emb_channels: E, width of the embedding, or None for a block without one.
      activation: act, a name of `ACTIVATIONS`.
      scale_shift: whether the embedding scales and shifts, or is added alone.
      resample: halves or doubles the images inside the block, as in BigGAN.
      projects_skip: whether the skip path has its 1x1 convolution even where the width stays.
      skip_scale: 1/sqrt(2) keeps the variance of the sum.
      dims: spatial axes.
      num_groups, norm_eps: of both normalisations.
      dropout: rate in [0, 1), active where a dropout_key is given.
    Source: Ho et al. 2020, arXiv:2006.11239, appendix B; scale-shift Dhariwal & Nichol 2021,
      arXiv:2105.05233, section 3.1; resample and skip_scale Song et al. 2021, arXiv:2011.13456,
      appendix H. Deviation: conv_out is exactly zero at initialisation, where theirs is scaled by
      1e-10.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        emb_channels: int | None = None,
        *,
        activation: str = "silu",
        scale_shift: bool = False,
        resample: Callable[[Array], Array] = identity,
        projects_skip: bool = False,
        skip_scale: float = 1.0,
        dims: int = 2,
        num_groups: int = 32,
        norm_eps: float = 1e-6,
        dropout: float = 0.0,
        dtype: DTypeLike = jnp.float32,
        param_dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        types: dict[str, Any] = dict(dtype=dtype, param_dtype=param_dtype)
        linear: dict[str, Any] = dict(kernel_init=INIT, rngs=rngs, **types)
        self.activation = activation
        self.resample = resample
        self.embed = scale_shifted if scale_shift else shifted
        self.skip_scale = skip_scale
        self.norm_in = GroupNorm(in_channels, num_groups, norm_eps, **types)
        self.conv_in = conv(in_channels, out_channels, dims=dims, rngs=rngs, **types)
        self.emb_proj = (
            None
            if emb_channels is None
            else nnx.Linear(emb_channels, out_channels * (1 + scale_shift), **linear)
        )
        self.norm_out = GroupNorm(out_channels, num_groups, norm_eps, **types)
        self.dropout_rate = dropout
        self.conv_out = conv(
            out_channels, out_channels, dims=dims, starts_at_zero=True, rngs=rngs, **types
        )
        self.skip = (
            nnx.Linear(in_channels, out_channels, **linear)
            if projects_skip or in_channels != out_channels
            else identity
        )

    def __call__(
        self,
        x: Float[Array, "B *spatial C"],
        emb: Float[Array, "B E"] | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B *resampled out"]:
        act = ACTIVATIONS[self.activation]
        h = self.conv_in(self.resample(act(self.norm_in(x))))
        if self.emb_proj is None:
            h = self.norm_out(h)
        else:
            assert emb is not None  # the network gives it to each of its blocks
            h = self.embed(self.norm_out, h, self.emb_proj(act(emb)))
        h = dropout(act(h), self.dropout_rate, dropout_key)
        # conv_out is zero at init: the block starts as its skip path
        return self.skip_scale * (self.skip(self.resample(x)) + self.conv_out(h))
