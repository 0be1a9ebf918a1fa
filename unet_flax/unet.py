"""The diffusion U-Net: an encoder that halves the image, a middle, and a decoder that doubles it.

Every feature map of the encoder is also an input of the block of the decoder that works at the same
size ("skip connection"), so that the decoder has fine detail and wide context at once.

Source: Ronneberger et al. 2015, arXiv:1505.04597; as noise predictor Ho et al. 2020,
arXiv:2006.11239.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Integer, Key

from unet_flax.attention import CrossAttention, SelfAttention
from unet_flax.blocks import GroupNorm, ResBlock, conv
from unet_flax.config import UNetConfig
from unet_flax.embeddings import Embedding
from unet_flax.inputs import check_call
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
    ) -> Array:
        x = self.res_block(x, emb, dropout_key)
        if self.attention is not None:
            x = self.attention(x)
        if self.cross_attention is not None:
            assert context is not None  # UNet checks it
            x = self.cross_attention(x, context, context_mask)
        return x


class UNet(nnx.Module):
    """Predicts the target of the preconditioning from a noisy image and its noise level.

    The output is zero at initialisation.

    Example:
      unet = UNet(UNetConfig(image_size=32), rngs=nnx.Rngs(0))
      y = unet(jnp.zeros((8, 32, 32, 3)), jnp.zeros(8))  # (8, 32, 32, 3)

    Source: Ho et al. 2020, arXiv:2006.11239, appendix B; the blocks name the papers of their
      variants.
    """

    def __init__(self, config: UNetConfig, *, rngs: nnx.Rngs):
        image_channels = config.image_shape[-1]  # raises where size or channels are not known yet
        self.config = config
        types: dict[str, Any] = dict(
            dtype=jnp.dtype(config.dtype), param_dtype=jnp.dtype(config.param_dtype)
        )
        convs: dict[str, Any] = dict(dims=config.dims, rngs=rngs, **types)
        norm: dict[str, Any] = dict(num_groups=config.num_groups, norm_eps=config.norm_eps)
        emb_channels = config.emb_channels or 4 * config.channels
        res_block = partial(
            ResBlock,
            emb_channels=emb_channels,
            activation=config.activation,
            scale_shift=config.scale_shift,
            skip_scale=config.skip_scale,
            dropout=config.dropout,
            **norm,
            **convs,
        )
        attention = partial(
            SelfAttention, head_dim=config.head_dim, qk_norm=config.qk_norm,
            skip_scale=config.skip_scale, rngs=rngs, **types,
        )  # fmt: skip

        def cross_attention(width: int) -> CrossAttention | None:
            if config.context_channels is None:
                return None
            return CrossAttention(
                width, config.context_channels, config.heads(width), head_dim=config.head_dim,
                qk_norm=config.qk_norm, skip_scale=config.skip_scale, rngs=rngs, **norm, **types,
            )  # fmt: skip

        def stage(in_width: int, width: int, attends: bool) -> Stage:
            block = res_block(in_width, width)
            if not attends:
                return Stage(block)
            own = attention(width, config.heads(width), **norm)
            return Stage(block, own, cross_attention(width))

        self.embedding = Embedding(
            config.channels,
            emb_channels,
            noise_features=config.noise_features,
            num_classes=config.num_classes,
            label=config.label,
            augment_channels=config.augment_channels,
            rngs=rngs,
            **types,
        )
        image_channels *= 1 + config.self_conditioning
        image_channels += config.condition_channels
        self.conv_in = conv(image_channels, config.channels, **convs)

        width = config.channels
        skip_widths = [width]
        self.encoder = nnx.List([])
        self.downsamples = nnx.List([])
        self.pyramid = nnx.List([])
        levels = zip(config.widths, config.blocks, config.encoder_attends, strict=True)
        for level, (level_width, num_blocks, attends) in enumerate(levels):
            if level > 0:
                kind = config.downsampling[level - 1]
                self.downsamples.append(kind.down(width, res_block, **convs))
                skip_widths.append(width)
                if config.input_pyramid:
                    self.pyramid.append(
                        InputPyramid(image_channels, width, config.input_pyramid, **convs)
                    )
                    image_channels = width
            stages = nnx.List([])
            for _ in range(num_blocks):
                stages.append(stage(width, level_width, attends))
                width = level_width
                skip_widths.append(width)
            self.encoder.append(stages)

        middle = config.middle
        scale = config.skip_scale if middle.skip_scale is None else middle.skip_scale
        self.middle = nnx.List([])
        if middle.exists:
            around = [res_block(width, width, skip_scale=scale) for _ in range(2)]
            attending = []
            if middle.attention:
                groups = dict(norm, num_groups=middle.attention_groups or config.num_groups)
                own = dict(normalised=middle.attention_norm, skip_scale=scale)
                attending.append(attention(width, config.heads(width), **own, **groups))
                attending.append(cross_attention(width))
            self.middle = nnx.List([Stage(around[0], *attending), Stage(around[1])])

        self.decoder = nnx.List([])
        self.upsamples = nnx.List([])
        levels = zip(config.widths, config.blocks, config.decoder_attends, strict=True)
        for level, (level_width, num_blocks, attends) in reversed(list(enumerate(levels))):
            if len(self.decoder) > 0:
                self.upsamples.append(config.upsampling[level].up(width, res_block, **convs))
            stages = nnx.List([])
            for index in range(num_blocks + 1):
                is_here = config.decoder_attention == "all" or index == num_blocks
                stages.append(stage(width + skip_widths.pop(), level_width, attends and is_here))
                width = level_width
            self.decoder.append(stages)

        self.norm_out = GroupNorm(width, config.num_groups, config.norm_eps, **types)
        self.conv_out = conv(width, config.output_channels, starts_at_zero=True, **convs)

    def __call__(
        self,
        x: Float[Array, "B *spatial C"],
        c_noise: Float[Array, "B"],
        *,
        label: Integer[Array, "B"] | None = None,
        augment_label: Float[Array, "B A"] | None = None,
        context: Float[Array, "B S D"] | None = None,
        context_mask: Bool[Array, "B S"] | None = None,
        condition: Float[Array, "B *spatial K"] | None = None,
        x_0_hat: Float[Array, "B *spatial C"] | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B *spatial out"]:
        """Runs the network.

        Args:
          x: noisy images, scaled by the preconditioning to about unit variance.
          c_noise: noise level of each image, as the preconditioning states it.
          label: class of each image in [0, num_classes), or -1 for the null class. None is the
            null class for every image.
          augment_label: how each image was augmented; None is no augmentation.
          context: tokens to attend to, such as text.
          context_mask: True for the tokens that are attended to, at least one for each image; None
            is all of them.
          condition: conditioning image of the same size, such as one of lower resolution or a mask.
          x_0_hat: the last estimate, for self-conditioning; None is zeros, before the first one.
          dropout_key: randomness of dropout; None switches dropout off.
        Returns:
          float32, with config.output_channels channels.
        Raises:
          ValueError: the arguments do not fit the configuration.
        """
        config = self.config
        given = dict(
            label=label,
            augment_label=augment_label,
            context=context,
            context_mask=context_mask,
            condition=condition,
            x_0_hat=x_0_hat,
        )
        check_call(config, x, c_noise, given)
        if config.num_classes is not None and label is None:
            label = jnp.full(x.shape[:1], -1, jnp.int32)
        if config.center_input:
            x = 2 * x - 1
        emb = self.embedding(c_noise, label, augment_label)
        images = [x]
        if config.self_conditioning:
            images.append(jnp.zeros_like(x) if x_0_hat is None else x_0_hat)
        if condition is not None:
            images.append(condition)
        keys = _keys(dropout_key)
        call = nnx.remat(_call) if config.remat else _call

        def run(block: nnx.Module, h: Array, *context: Array | None) -> Array:
            return call(block, h, emb, next(keys), *context)

        image = jnp.concatenate(images, axis=-1)
        h = self.conv_in(image)
        skips = [h]
        for level, stages in enumerate(self.encoder):
            if level > 0:
                h = run(self.downsamples[level - 1], h)
                if config.input_pyramid:
                    image = self.pyramid[level - 1](image)
                    h = image = config.skip_scale * (h + image)
                skips.append(h)
            for stage in stages:
                h = run(stage, h, context, context_mask)
                skips.append(h)

        for stage in self.middle:
            h = run(stage, h, context, context_mask)

        for level, stages in enumerate(self.decoder):
            if level > 0:
                h = run(self.upsamples[level - 1], h)
            for stage in stages:
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = run(stage, h, context, context_mask)

        return self.conv_out(nnx.silu(self.norm_out(h))).astype(jnp.float32)


def _call(block: Callable[..., Array], *args: Array | None) -> Array:
    return block(*args)


def _keys(dropout_key: Key[Array, ""] | None) -> Iterator[Key[Array, ""] | None]:
    """An endless iterator: one key for each block, or None where dropout is off."""
    block = 0
    while True:
        yield None if dropout_key is None else jax.random.fold_in(dropout_key, block)
        block += 1
