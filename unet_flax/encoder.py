"""The half of the U-Net that halves the image, with its middle; the base of the whole U-Net.

Source: Ho et al. 2020, arXiv:2006.11239, appendix B.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from unet_flax.attention import CrossAttention, SelfAttention
from unet_flax.attention_edit import AttentionEdit
from unet_flax.blocks import ResBlock, conv
from unet_flax.config import UNetConfig
from unet_flax.embeddings import Embedding
from unet_flax.resample import InputPyramid


class Stage(nnx.Module):
    """A residual block and, at some resolutions, attention after it."""

    def __init__(
        self,
        res_block: ResBlock,
        attention: SelfAttention | None = None,
        cross_attention: CrossAttention | None = None,
    ):
        self.res_block = res_block
        self.attention = attention
        self.cross_attention = cross_attention

    def __call__(
        self,
        x: Array,
        emb: Array,
        dropout_key: Key[Array, ""] | None,
        context: Array | None = None,
        context_mask: Array | None = None,
        edit: AttentionEdit | None = None,
    ) -> Array:
        x = self.res_block(x, emb, dropout_key)
        if self.attention is not None:
            x = self.attention(x, edit)
        if self.cross_attention is not None:
            assert context is not None  # UNet checks it
            x = self.cross_attention(x, context, context_mask, edit)
        return x


class Parts:
    """Makes the parts of one network: its blocks, with the settings that they share.

    Args:
      config: the network's configuration.
      rngs: the source of the weights.
    """

    def __init__(self, config: UNetConfig, rngs: nnx.Rngs):
        self.config = config
        self.rngs = rngs
        self.types: dict[str, Any] = dict(
            dtype=jnp.dtype(config.dtype), param_dtype=jnp.dtype(config.param_dtype)
        )
        self.convs: dict[str, Any] = dict(dims=config.dims, rngs=rngs, **self.types)
        self.norm: dict[str, Any] = dict(num_groups=config.num_groups, norm_eps=config.norm_eps)
        self.res_block = partial(
            ResBlock,
            emb_channels=self.emb_channels,
            activation=config.activation,
            scale_shift=config.scale_shift,
            skip_scale=config.skip_scale,
            dropout=config.dropout,
            **self.norm,
            **self.convs,
        )
        self.attention = partial(
            SelfAttention, head_dim=config.head_dim, qk_norm=config.qk_norm,
            skip_scale=config.skip_scale, rngs=rngs, **self.types,
        )  # fmt: skip

    @property
    def emb_channels(self) -> int:
        """Width of the embedding."""
        return self.config.emb_channels or 4 * self.config.channels

    def cross_attention(self, width: int) -> CrossAttention | None:
        """Attention to the context, or None for a network without."""
        config = self.config
        if config.context_width is None:
            return None
        return CrossAttention(
            width, config.context_width, config.heads(width), head_dim=config.head_dim,
            qk_norm=config.qk_norm, skip_scale=config.skip_scale, rngs=self.rngs, **self.norm,
            **self.types,
        )  # fmt: skip

    def stage(self, in_width: int, width: int, attends: bool) -> Stage:
        """A residual block, with attention after it where the level attends."""
        block = self.res_block(in_width, width)
        if not attends:
            return Stage(block)
        own = self.attention(width, self.config.heads(width), **self.norm)
        return Stage(block, own, self.cross_attention(width))


class UNetEncoder(nnx.Module):
    """Embedding, first convolution, the levels of the encoder, and the middle.

    Attributes:
      skip_widths: channels of the feature maps that `encode` returns.
    """

    def __init__(self, config: UNetConfig, *, rngs: nnx.Rngs):
        image_channels = config.image_shape[-1]  # raises where size or channels are not known yet
        self.config = config
        parts = Parts(config, rngs)
        self.embedding = Embedding(
            config.channels,
            parts.emb_channels,
            noise_features=config.noise_features,
            num_classes=config.num_classes,
            label=config.label,
            augment_channels=config.augment_channels,
            added_channels=None if config.text is None else config.text.channels,
            rngs=rngs,
            **parts.types,
        )
        image_channels *= 1 + config.self_conditioning
        image_channels += config.condition_channels
        self.conv_in = conv(image_channels, config.channels, **parts.convs)

        width = config.channels
        skip_widths = [width]
        self.encoder = nnx.List([])
        self.downsamples = nnx.List([])
        self.pyramid = nnx.List([])
        levels = zip(config.widths, config.blocks, config.encoder_attends, strict=True)
        for level, (level_width, num_blocks, attends) in enumerate(levels):
            if level > 0:
                kind = config.downsampling[level - 1]
                self.downsamples.append(kind.down(width, parts.res_block, **parts.convs))
                skip_widths.append(width)
                if config.input_pyramid:
                    self.pyramid.append(
                        InputPyramid(image_channels, width, config.input_pyramid, **parts.convs)
                    )
                    image_channels = width
            stages = nnx.List([])
            for _ in range(num_blocks):
                stages.append(parts.stage(width, level_width, attends))
                width = level_width
                skip_widths.append(width)
            self.encoder.append(stages)

        middle = config.middle
        scale = config.skip_scale if middle.skip_scale is None else middle.skip_scale
        self.middle = nnx.List([])
        if middle.exists:
            around = [parts.res_block(width, width, skip_scale=scale) for _ in range(2)]
            attending = []
            if middle.attention:
                groups = dict(parts.norm, num_groups=middle.attention_groups or config.num_groups)
                own = dict(normalised=middle.attention_norm, skip_scale=scale)
                attending.append(parts.attention(width, config.heads(width), **own, **groups))
                attending.append(parts.cross_attention(width))
            self.middle = nnx.List([Stage(around[0], *attending), Stage(around[1])])
        self.skip_widths = tuple(skip_widths)

    def encode(
        self,
        image: Float[Array, "B *spatial C"],
        run: Callable[..., Array],
        *context: Any,
    ) -> tuple[Float[Array, "B *smallest D"], list[Array]]:
        """The features after the middle, and those of every block before it, largest first.

        Args:
          run: `run(block, h, *context)`, see `runner`.
          context: what the attention of a network with text takes.
        """
        h = self.conv_in(image)
        skips = [h]
        for level, stages in enumerate(self.encoder):
            if level > 0:
                h = run(self.downsamples[level - 1], h)
                if self.config.input_pyramid:
                    image = self.pyramid[level - 1](image)
                    h = image = self.config.skip_scale * (h + image)
                skips.append(h)
            for stage in stages:
                h = run(stage, h, *context)
                skips.append(h)
        for stage in self.middle:
            h = run(stage, h, *context)
        return h, skips


def runner(
    config: UNetConfig, emb: Array, dropout_key: Key[Array, ""] | None
) -> Callable[..., Array]:
    """Makes `run(block, h, *context) -> h`, which gives each block embedding and dropout key."""
    keys = _keys(dropout_key)
    call = nnx.remat(_call) if config.remat else _call

    def run(block: nnx.Module, h: Array, *context: Any) -> Array:
        return call(block, h, emb, next(keys), *context)

    return run


def _call(block: Callable[..., Array], *args: Any) -> Array:
    return block(*args)


def _keys(dropout_key: Key[Array, ""] | None) -> Iterator[Key[Array, ""] | None]:
    """An endless iterator: one key for each block, or None where dropout is off."""
    block = 0
    while True:
        yield None if dropout_key is None else jax.random.fold_in(dropout_key, block)
        block += 1
