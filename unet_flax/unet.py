"""The diffusion U-Net: an encoder that halves the image, a middle, and a decoder that doubles it.

Every feature map of the encoder is kept and handed across ("skip connection") to the block of the
decoder that works at the same size, so the decoder sees fine detail and wide context at once.

Source: Ronneberger et al. 2015, arXiv:1505.04597; as noise predictor Ho et al. 2020,
arXiv:2006.11239.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
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
from unet_flax.embeddings import Embedding, LabelKind, NoiseFeatures, Sinusoidal, Table
from unet_flax.resample import InputPyramid, Resampling, Strided

TYPES = ("float32", "bfloat16")


@dataclass(frozen=True)
class Middle:
    """The bottom of the U: a residual block, self-attention, a residual block.

    Attributes:
      attention: whether the attention is there.
      attention_norm: whether its input is normalised; diffusers leaves that out where the network
        has scale-shift.
      skip_scale: factor of every sum in the middle, or None for the network's.
    """

    attention: bool = True
    attention_norm: bool = True
    skip_scale: float | None = None


@dataclass(frozen=True)
class UNetConfig:
    """Everything that decides the network's shape.

    Attributes:
      image_size: height and width in pixels (length in one dimension, depth too in three);
        divisible by 2 ** (levels - 1).
      in_channels: channels of the image; 3 for RGB, 1 for grey.
      channels: width of the first level.
      channel_mult: width of each level as a multiple of `channels`; its length is the number of
        levels, each half the size of the one before.
      num_res_blocks: residual blocks in each level of the encoder, one number or one for each
        level; the decoder has one more.
      attention_resolutions: sizes in pixels (not factors) at which each block is followed by
        attention.
      num_classes: number of class labels, or None for an unconditional network.
      dropout: rate in [0, 1) inside the residual blocks, in training only.
      out_channels: channels of the output, or None for as many as the image.
      num_heads: attention heads; ignored where head_dim is given.
      head_dim: width of an attention head, or None to use num_heads.
      num_groups: groups of every GroupNorm; divides the width of every level.
      norm_eps: added to the variance in every GroupNorm.
      dtype: type in which the network computes, "float32" or "bfloat16"; the output is always
        float32.
      param_dtype: type of the parameters, "float32" or "bfloat16".
      scale_shift: whether the embedding scales and shifts the normalised features, or is added.
      skip_scale: factor of every sum of a block and its skip path; 1/sqrt(2) keeps the variance.
      qk_norm: whether attention normalises queries and keys.
      decoder_attention: "all", or "last" for the last block of a level alone.
      middle: the bottom of the U.
      resampling: how one level becomes the next: Strided, Pool, Resize or Residual.
      input_pyramid: taps of a filter by which every level of the encoder is shown the image
        (NCSN++), or none.
      emb_channels: width of the embedding, or None for 4 * channels.
      noise_features: how the noise level enters: Sinusoidal or Fourier.
      label: how the class enters: Table or OneHot.
      augment_channels: width of the augmentation label, or None for none.
      condition_channels: channels of an image that is given along, or 0.
      context_channels: width of the tokens to which attention attends besides, or None for none.
      self_conditioning: whether the network is shown its own last estimate.
      dims: spatial axes: 1, 2 or 3.
      remat: whether blocks are computed again in the backward pass: less memory, more time.
    Raises:
      ValueError: where the values contradict each other.
    """

    image_size: int
    in_channels: int = 3
    channels: int = 128
    channel_mult: tuple[int, ...] = (1, 2, 2, 2)
    num_res_blocks: int | tuple[int, ...] = 2
    attention_resolutions: tuple[int, ...] = (16,)
    num_classes: int | None = None
    dropout: float = 0.0
    out_channels: int | None = None
    num_heads: int = 1
    head_dim: int | None = None
    num_groups: int = 32
    norm_eps: float = 1e-6
    dtype: str = "float32"
    param_dtype: str = "float32"
    scale_shift: bool = False
    skip_scale: float = 1.0
    qk_norm: bool = False
    decoder_attention: str = "all"
    middle: Middle = Middle()
    resampling: Resampling = Strided()
    input_pyramid: tuple[float, ...] = ()
    emb_channels: int | None = None
    noise_features: NoiseFeatures = Sinusoidal()
    label: LabelKind = Table()
    augment_channels: int | None = None
    condition_channels: int = 0
    context_channels: int | None = None
    self_conditioning: bool = False
    dims: int = 2
    remat: bool = False

    def __post_init__(self):
        for name in ("image_size", "in_channels", "channels", "num_heads", "num_groups"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)} is below 1.")
        for name in (
            "num_classes",
            "head_dim",
            "out_channels",
            "emb_channels",
            "augment_channels",
            "context_channels",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name}={value} is below 1; use None for none of its own.")
        if self.condition_channels < 0:
            raise ValueError(f"condition_channels={self.condition_channels} is below 0.")
        if not self.channel_mult or min(self.channel_mult) < 1:
            raise ValueError(
                f"channel_mult={self.channel_mult} needs one multiple of 1 or more for each level."
            )
        if len(self.blocks) != len(self.channel_mult) or min(self.blocks) < 1:
            raise ValueError(
                f"num_res_blocks={self.num_res_blocks} needs to be 1 or more, one number or one "
                f"for each of the {len(self.channel_mult)} levels."
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
        for name in ("dtype", "param_dtype"):
            if getattr(self, name) not in TYPES:
                raise ValueError(
                    f'{name}={getattr(self, name)!r} is neither "float32" nor "bfloat16".'
                )
        if self.decoder_attention not in ("all", "last"):
            raise ValueError(
                f'decoder_attention={self.decoder_attention!r} is neither "all" nor "last".'
            )
        if self.dims not in (1, 2, 3):
            raise ValueError(f"dims={self.dims} is none of 1, 2, 3.")
        if len(self.input_pyramid) % 2:
            raise ValueError(f"input_pyramid={self.input_pyramid} must be an even number of taps.")

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Height and width of each level, largest first."""
        return tuple(self.image_size >> level for level in range(len(self.channel_mult)))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.channels * multiple for multiple in self.channel_mult)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Residual blocks of each level of the encoder."""
        if isinstance(self.num_res_blocks, int):
            return (self.num_res_blocks,) * len(self.channel_mult)
        return self.num_res_blocks

    def heads(self, width: int) -> int:
        """Attention heads of a level that is `width` channels wide."""
        return self.num_heads if self.head_dim is None else max(width // self.head_dim, 1)


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
            condition=condition,
            x_0_hat=x_0_hat,
        )
        _check(config, x, given)
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


def _check(config: UNetConfig, x: Array, given: dict[str, Array | None]) -> None:
    """Raises a ValueError where what is given does not fit the configuration."""
    spatial = (config.image_size,) * config.dims
    if x.shape[1:] != (*spatial, config.in_channels):
        raise ValueError(
            f"images of (size, channels) {x.shape[1:]} do not fit this network, which takes "
            f"{(*spatial, config.in_channels)}; set image_size and in_channels in its UNetConfig."
        )
    fields = {
        "label": ("num_classes", config.num_classes, None),
        "augment_label": ("augment_channels", config.augment_channels, (config.augment_channels,)),
        "context": ("context_channels", config.context_channels, None),
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
        if array is not None and shape is not None and array.shape[1:] != shape:
            raise ValueError(
                f"{name} of shape {array.shape[1:]} does not fit this network, which takes {shape}."
            )
    label, context = given["label"], given["context"]
    if context is not None and context.shape[-1] != config.context_channels:
        raise ValueError(
            f"context of width {context.shape[-1]} does not fit this network, which takes "
            f"context_channels={config.context_channels}."
        )
    if config.num_classes is not None and not config.label.has_null and label is None:
        raise ValueError("label is missing: this network has no null class.")
    if label is not None and config.num_classes is not None:
        _check_label(config, label)


def _check_label(config: UNetConfig, label: Array) -> None:
    assert config.num_classes is not None
    if isinstance(label, Tracer):  # its values cannot be seen; the embedding gives NaN
        return
    lowest = -1 if config.label.has_null else 0
    values = np.asarray(label)
    wrong = values[(values < lowest) | (values >= config.num_classes)]
    if wrong.size:
        raise ValueError(
            f"label {wrong[0]} is outside {lowest} .. {config.num_classes - 1}, the classes of "
            "this network" + (" (-1 is the null class)." if lowest else ".")
        )


Params = dict[str, Any]
Network = Callable[..., Array]


def functional(module: nnx.Module) -> tuple[Network, Params]:
    """Splits a module into a pure function and its parameters, a plain nested dict of arrays.

    `network(params, *args, **kwargs)` equals `module(*args, **kwargs)` for the module's own
    parameters. Plain dicts cost `jax.jit` nothing per call, where an NNX module costs
    milliseconds of Python. All keys are strings, as jax.export and file formats want them.

    Returns:
      (network, params); params share the module's arrays.
    """
    graph, state = nnx.split(module)

    def network(params: Params, *args, **kwargs) -> Array:
        return nnx.merge(graph, _keyed(params, _list_index))(*args, **kwargs)

    return network, _keyed(nnx.to_pure_dict(state), str)


def _keyed(node: Any, rename: Callable[[Any], Any]) -> Any:
    if not isinstance(node, dict):
        return node
    return {rename(key): _keyed(child, rename) for key, child in node.items()}


def _list_index(key: str) -> str | int:
    return int(key) if key.isdecimal() else key
