"""The diffusion U-Net: an encoder that halves the image, a middle, and a decoder that doubles it.

Every feature map of the encoder is kept and handed across ("skip connection") to the block of the
decoder that works at the same size, so the decoder sees fine detail and wide context at once.

Source: Ronneberger et al. 2015, arXiv:1505.04597; as noise predictor Ho et al. 2020,
arXiv:2006.11239.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, Key

from unet_flax.attention import CrossAttention, SelfAttention
from unet_flax.blocks import GroupNorm, ResBlock, conv
from unet_flax.config import UNetConfig
from unet_flax.embeddings import Embedding, check_label
from unet_flax.resample import InputPyramid
from unet_flax.rules import array_like, or_none


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
    """Predicts, from a noisy image and its noise level, what the preconditioning asks for.

    The output is zero at initialisation.

    Example:
      unet = UNet(UNetConfig(image_size=32), rngs=nnx.Rngs(0))
      y = unet(jnp.zeros((8, 32, 32, 3)), jnp.zeros(8))  # (8, 32, 32, 3)

    Source: Ho et al. 2020, arXiv:2006.11239, appendix B; what other papers changed stands with the
      block that has it.
    """

    def __init__(self, config: UNetConfig, *, rngs: nnx.Rngs):
        self.config = config
        types: dict[str, Any] = dict(
            dtype=jnp.dtype(config.dtype), param_dtype=jnp.dtype(config.param_dtype)
        )
        convs: dict[str, Any] = dict(dims=config.dims, rngs=rngs, **types)
        norm: dict[str, Any] = dict(num_groups=config.num_groups, norm_eps=config.norm_eps)
        emb_channels = config.emb_channels or 4 * config.channels
        levels = list(zip(config.widths, config.resolutions, config.blocks, strict=True))

        res_block = partial(
            ResBlock,
            emb_channels=emb_channels,
            scale_shift=config.scale_shift,
            skip_scale=config.skip_scale,
            dropout=config.dropout,
            **norm,
            **convs,
        )
        attention = partial(
            SelfAttention, qk_norm=config.qk_norm, skip_scale=config.skip_scale, rngs=rngs,
            **norm, **types,
        )  # fmt: skip

        def cross_attention(width: int) -> CrossAttention | None:
            if config.context_channels is None:
                return None
            return CrossAttention(
                width, config.context_channels, config.heads(width), qk_norm=config.qk_norm,
                skip_scale=config.skip_scale, rngs=rngs, **norm, **types,
            )  # fmt: skip

        def stage(in_width: int, width: int, attends: bool) -> Stage:
            block = res_block(in_width, width)
            if not attends:
                return Stage(block)
            return Stage(block, attention(width, config.heads(width)), cross_attention(width))

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
        image_channels = config.in_channels * (1 + config.self_conditioning)
        image_channels += config.condition_channels
        self.conv_in = conv(image_channels, config.channels, **convs)

        width = config.channels
        skip_widths = [width]
        self.encoder = nnx.List([])
        self.downsamples = nnx.List([])
        self.pyramid = nnx.List([])
        for level, (level_width, resolution, num_blocks) in enumerate(levels):
            if level > 0:
                self.downsamples.append(config.resampling.down(width, res_block, **convs))
                skip_widths.append(width)
                if config.input_pyramid:
                    self.pyramid.append(
                        InputPyramid(image_channels, width, config.input_pyramid, **convs)
                    )
                    image_channels = width
            stages = nnx.List([])
            for _ in range(num_blocks):
                stages.append(stage(width, level_width, resolution in config.attention_resolutions))
                width = level_width
                skip_widths.append(width)
            self.encoder.append(stages)

        middle = config.middle
        scale = config.skip_scale if middle.skip_scale is None else middle.skip_scale
        around = [res_block(width, width, skip_scale=scale) for _ in range(2)]
        attending = []
        if middle.attention:
            normalised, heads = middle.attention_norm, config.heads(width)
            attending.append(attention(width, heads, normalised=normalised, skip_scale=scale))
            attending.append(cross_attention(width))
        self.middle = nnx.List([Stage(around[0], *attending), Stage(around[1])])

        self.decoder = nnx.List([])
        self.upsamples = nnx.List([])
        for level_width, resolution, num_blocks in reversed(levels):
            if len(self.decoder) > 0:
                self.upsamples.append(config.resampling.up(width, res_block, **convs))
            stages = nnx.List([])
            for index in range(num_blocks + 1):
                attends = resolution in config.attention_resolutions and (
                    config.decoder_attention == "all" or index == num_blocks
                )
                stages.append(stage(width + skip_widths.pop(), level_width, attends))
                width = level_width
            self.decoder.append(stages)

        self.norm_out = GroupNorm(width, config.num_groups, config.norm_eps, **types)
        self.conv_out = conv(
            width, config.out_channels or config.in_channels, starts_at_zero=True, **convs
        )

    def __call__(
        self,
        x: Float[Array, "B *spatial C"],
        c_noise: Float[Array, "B"],
        *,
        label: Int[Array, "B"] | None = None,
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
          augment_label: how each image was augmented; None is not at all.
          context: tokens to attend to, such as text.
          context_mask: True for the tokens that count, at least one for each image; None is all.
          condition: an image to go by, of the same size, such as one of lower resolution or a mask.
          x_0_hat: the last estimate, for self-conditioning; None is none yet (zeros).
          dropout_key: randomness of dropout; None switches dropout off.
        Returns:
          float32, as many channels as config.out_channels says.
        Raises:
          ValueError: where the arguments do not fit the configuration.
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
        emb = self.embedding(c_noise, label, augment_label)
        images = [x]
        if config.self_conditioning:
            images.append(jnp.zeros_like(x) if x_0_hat is None else x_0_hat)
        if condition is not None:
            images.append(condition)
        keys = _keys(dropout_key)
        call = nnx.remat(_call) if config.remat else _call

        def run(block: nnx.Module, h: Array, *told: Array | None) -> Array:
            return call(block, h, emb, next(keys), *told)

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
    """One key for each block in turn, or None for ever."""
    block = 0
    while True:
        yield None if dropout_key is None else jax.random.fold_in(dropout_key, block)
        block += 1


def check_call(config: UNetConfig, x: Any, c_noise: Any, given: dict[str, Any]) -> None:
    """Raises a ValueError where what is given is no array or does not fit the configuration."""
    x, c_noise = array_like("x", x), array_like("c_noise", c_noise)
    given = {name: or_none(array_like)(name, value) for name, value in given.items()}
    spatial = (config.image_size,) * config.dims
    if x.shape[1:] != (*spatial, config.in_channels):
        raise ValueError(
            f"images of (size, channels) {x.shape[1:]} do not fit this network, which takes "
            f"{(*spatial, config.in_channels)}; set image_size and in_channels in its UNetConfig."
        )
    batch, context = x.shape[0], given["context"]
    tokens = None if context is None or len(context.shape) < 2 else context.shape[1]
    fields: dict[str, tuple[str, Any, tuple[int | None, ...]]] = {
        "label": ("num_classes", config.num_classes, ()),
        "augment_label": ("augment_channels", config.augment_channels, (config.augment_channels,)),
        "context": ("context_channels", config.context_channels, (tokens, config.context_channels)),
        "context_mask": ("context_channels", config.context_channels, (tokens,)),
        "condition": (
            "condition_channels",
            config.condition_channels,
            (*spatial, config.condition_channels),
        ),
        "x_0_hat": ("self_conditioning", config.self_conditioning, x.shape[1:]),
    }
    for name, (field, value, shape) in fields.items():
        array = given[name]
        if array is not None and not value:
            raise ValueError(
                f"{name} is given to a network that knows none; set {field} in its UNetConfig."
            )
        if array is None and value and name in ("context", "condition"):
            raise ValueError(f"{name} is missing: this network has {field}={value}.")
        if array is not None and array.shape != (batch, *shape):
            raise ValueError(
                f"{name} of shape {array.shape} does not fit: for these images this network takes "
                f"{(batch, *shape)}."
            )
    if c_noise.shape != (batch,):
        raise ValueError(f"c_noise of shape {c_noise.shape} is not one level an image, ({batch},).")
    label, context_mask = given["label"], given["context_mask"]
    if config.num_classes is not None:
        check_label(label, config.num_classes, has_null=config.label.has_null)
    if context_mask is not None and context is None:
        raise ValueError("context_mask is given without a context.")
    if context_mask is not None and not isinstance(context_mask, Tracer):
        if not np.asarray(context_mask).any(1).all():
            raise ValueError("context_mask leaves an image no token to attend to.")
