"""The diffusion U-Net: an encoder that halves the image, a middle, and a decoder that doubles it.

Every feature map of the encoder is kept and handed across ("skip connection") to the block of the
decoder that works at the same size, so the decoder sees fine detail and wide context at once.

Source: Ronneberger et al. 2015, arXiv:1505.04597; as noise predictor Ho et al. 2020,
arXiv:2006.11239.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from unet_flax.attention import SelfAttention
from unet_flax.blocks import Downsample, GroupNorm, ResBlock, Upsample, identity
from unet_flax.embeddings import LabelEmbedding, NoiseEmbedding


@dataclass(frozen=True)
class UNetConfig:
    """Everything that decides the network's shape.

    Attributes:
      image_size: height and width in pixels; divisible by 2 ** (levels - 1).
      in_channels: channels of the image; 3 for RGB, 1 for grey.
      channels: width of the first level.
      channel_mult: width of each level as a multiple of `channels`; its length is the number of
        levels, each half the size of the one before.
      num_res_blocks: residual blocks in each level of the encoder; the decoder has one more.
      attention_resolutions: sizes in pixels (not factors) at which each block is followed by
        self-attention; the middle always has it.
      num_classes: number of class labels, or None for an unconditional network.
      dropout: rate in [0, 1) inside the residual blocks, in training only.
      out_channels: channels of the output, or None for as many as the input has.
      num_heads: attention heads; ignored where head_dim is given.
      head_dim: width of an attention head, or None to use num_heads.
      num_groups: groups of every GroupNorm; divides the width of every level.
      norm_eps: added to the variance in every GroupNorm.
      dtype: type in which the network computes, "float32" or "bfloat16"; parameters and output
        are always float32.
    Raises:
      ValueError: where the values contradict each other.
    """

    image_size: int
    in_channels: int = 3
    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    num_classes: int | None = None
    dropout: float = 0.0
    out_channels: int | None = None
    num_heads: int = 1
    head_dim: int | None = None
    num_groups: int = 32
    norm_eps: float = 1e-6
    dtype: str = "float32"

    def __post_init__(self):
        for name in (
            "image_size",
            "in_channels",
            "channels",
            "num_res_blocks",
            "num_heads",
            "num_groups",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is below 1.")
        for name in ("head_dim", "out_channels"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is below 1; use None for the default.")
        if not self.channel_mult or min(self.channel_mult) < 1:
            raise ValueError(
                f"channel_mult={self.channel_mult} needs one multiple of 1 or more for each level."
            )
        factor = 2 ** (len(self.channel_mult) - 1)
        if self.image_size % factor:
            raise ValueError(
                f"image_size={self.image_size} is not divisible by {factor} = 2**(levels - 1); "
                f"use a multiple of {factor} or a shorter channel_mult."
            )
        unknown = set(self.attention_resolutions) - set(self.resolutions)
        if unknown:
            raise ValueError(
                f"attention_resolutions={self.attention_resolutions} names sizes that no level "
                f"has; the levels of this network have {self.resolutions}."
            )
        for width in self.widths:
            if width % self.num_groups:
                raise ValueError(
                    f"num_groups={self.num_groups} does not divide the width {width} of a level; "
                    f"use a divisor of channels={self.channels}."
                )
            if width % self.heads(width):
                raise ValueError(
                    f"width {width} of a level cannot be cut into attention heads "
                    f"(num_heads={self.num_heads}, head_dim={self.head_dim})."
                )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout={self.dropout} is outside [0, 1).")
        if self.num_classes is not None and self.num_classes < 1:
            raise ValueError(f"num_classes={self.num_classes} is below 1; use None for no label.")
        if self.dtype not in ("float32", "bfloat16"):
            raise ValueError(f'dtype={self.dtype!r} is neither "float32" nor "bfloat16".')

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Height and width of each level, largest first."""
        return tuple(self.image_size >> level for level in range(len(self.channel_mult)))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.channels * multiple for multiple in self.channel_mult)

    def heads(self, width: int) -> int:
        """Attention heads of a level that is `width` channels wide."""
        return self.num_heads if self.head_dim is None else max(width // self.head_dim, 1)


class Stage(nnx.Module):
    """A residual block and, at some resolutions, self-attention after it."""

    def __init__(
        self,
        config: UNetConfig,
        in_channels: int,
        out_channels: int,
        *,
        has_attention: bool,
        rngs: nnx.Rngs,
    ):
        common: dict[str, Any] = dict(
            num_groups=config.num_groups, norm_eps=config.norm_eps, dtype=jnp.dtype(config.dtype)
        )
        self.res_block = ResBlock(
            in_channels,
            out_channels,
            4 * config.channels,
            dropout=config.dropout,
            **common,
            rngs=rngs,
        )
        self.attention = (
            SelfAttention(out_channels, config.heads(out_channels), **common, rngs=rngs)
            if has_attention
            else identity
        )

    def __call__(self, x: Array, emb: Array, dropout_key: Key[Array, ""] | None) -> Array:
        return self.attention(self.res_block(x, emb, dropout_key))


class UNet(nnx.Module):
    """Predicts, from a noisy image and its noise level, what the preconditioning asks for.

    The output is zero at initialisation.

    Example:
      unet = UNet(UNetConfig(image_size=32), rngs=nnx.Rngs(0))
      y = unet(jnp.zeros((8, 32, 32, 3)), jnp.zeros(8))  # (8, 32, 32, 3)

    Source: Ho et al. 2020, arXiv:2006.11239, appendix B.
    """

    def __init__(self, config: UNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        dtype = jnp.dtype(config.dtype)
        init = nnx.initializers.xavier_uniform()

        self.noise_embedding = NoiseEmbedding(
            config.channels, 4 * config.channels, dtype=dtype, rngs=rngs
        )
        if config.num_classes is not None:
            self.label_embedding = LabelEmbedding(
                config.num_classes, 4 * config.channels, dtype=dtype, rngs=rngs
            )
        self.conv_in = nnx.Conv(
            config.in_channels, config.channels, (3, 3), kernel_init=init, dtype=dtype, rngs=rngs
        )

        def stage(in_channels: int, out_channels: int, resolution: int) -> Stage:
            has_attention = resolution in config.attention_resolutions
            return Stage(config, in_channels, out_channels, has_attention=has_attention, rngs=rngs)

        levels = list(zip(config.widths, config.resolutions, strict=True))
        width = config.channels
        skip_widths = [width]
        self.encoder = nnx.List([])
        self.downsamples = nnx.List([])
        for level, (out_width, resolution) in enumerate(levels):
            stages = nnx.List([])
            for _ in range(config.num_res_blocks):
                stages.append(stage(width, out_width, resolution))
                width = out_width
                skip_widths.append(width)
            self.encoder.append(stages)
            if level < len(levels) - 1:
                self.downsamples.append(Downsample(width, dtype=dtype, rngs=rngs))
                skip_widths.append(width)

        self.middle = nnx.List(
            [
                Stage(config, width, width, has_attention=has_attention, rngs=rngs)
                for has_attention in (True, False)
            ]
        )

        self.decoder = nnx.List([])
        self.upsamples = nnx.List([])
        for level, (out_width, resolution) in enumerate(reversed(levels)):
            stages = nnx.List([])
            for _ in range(config.num_res_blocks + 1):
                stages.append(stage(width + skip_widths.pop(), out_width, resolution))
                width = out_width
            self.decoder.append(stages)
            if level < len(levels) - 1:
                self.upsamples.append(Upsample(width, dtype=dtype, rngs=rngs))

        self.norm_out = GroupNorm(width, config.num_groups, config.norm_eps, dtype=dtype)
        self.conv_out = nnx.Conv(
            width,
            config.out_channels or config.in_channels,
            (3, 3),
            kernel_init=nnx.initializers.zeros,
            dtype=dtype,
            rngs=rngs,
        )

    def __call__(
        self,
        x: Float[Array, "B H W C"],
        c_noise: Float[Array, "B"],
        *,
        label: Int[Array, "B"] | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B H W out"]:
        """Runs the network.

        Args:
          x: noisy images, scaled by the preconditioning to about unit variance.
          c_noise: noise level of each image, as the preconditioning states it.
          label: class of each image in [0, num_classes), or -1 for the null class. None is the
            null class for every image.
          dropout_key: randomness of dropout; None switches dropout off.
        Returns:
          float32, as many channels as config.out_channels says.
        Raises:
          ValueError: where x or label do not fit the configuration.
        """
        self._check(x, label)
        emb = self.noise_embedding(c_noise)
        if self.config.num_classes is not None:
            if label is None:
                label = jnp.full(x.shape[:1], -1, jnp.int32)
            emb = emb + self.label_embedding(label)
        keys = _keys(dropout_key)

        h = self.conv_in(x)
        skips = [h]
        for level, stages in enumerate(self.encoder):
            for stage in stages:
                h = stage(h, emb, next(keys))
                skips.append(h)
            if level < len(self.downsamples):
                h = self.downsamples[level](h)
                skips.append(h)

        for stage in self.middle:
            h = stage(h, emb, next(keys))

        for level, stages in enumerate(self.decoder):
            for stage in stages:
                h = stage(jnp.concatenate([h, skips.pop()], axis=-1), emb, next(keys))
            if level < len(self.upsamples):
                h = self.upsamples[level](h)

        return self.conv_out(nnx.silu(self.norm_out(h))).astype(jnp.float32)

    def _check(self, x: Array, label: Array | None) -> None:
        size = self.config.image_size
        allowed = (size, size, self.config.in_channels)
        if x.shape[1:] != allowed:
            raise ValueError(
                f"images of (height, width, channels) {x.shape[1:]} do not fit this network, "
                f"which takes {allowed}; set image_size and in_channels in its UNetConfig."
            )
        if label is not None and self.config.num_classes is None:
            raise ValueError(
                "label is given to an unconditional network; set num_classes in its UNetConfig."
            )


def _keys(dropout_key: Key[Array, ""] | None):
    """One key for each block in turn, or None for ever."""
    block = 0
    while True:
        yield None if dropout_key is None else jax.random.fold_in(dropout_key, block)
        block += 1


Params = dict[str, Any]
Network = Callable[..., Array]


def functional(module: nnx.Module) -> tuple[Network, Params]:
    """Splits a module into a pure function and its parameters, a plain nested dict of arrays.

    `network(params, *args, **kwargs)` equals `module(*args, **kwargs)` for the module's own
    parameters. Plain dicts cost `jax.jit` nothing per call, where an NNX module costs
    milliseconds of Python.

    Returns:
      (network, params); params share the module's arrays.
    """
    graph, state = nnx.split(module)

    def network(params: Params, *args, **kwargs) -> Array:
        return nnx.merge(graph, params)(*args, **kwargs)

    return network, nnx.to_pure_dict(state)
