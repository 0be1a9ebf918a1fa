"""What decides a U-Net's shape, checked where it is made."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from unet_flax.embeddings import LabelKind, NoiseFeatures, Sinusoidal, Table
from unet_flax.resample import Resampling, Strided

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

    def __post_init__(self):
        if self.skip_scale is not None and not 0 < self.skip_scale < math.inf:
            raise ValueError(f"skip_scale={self.skip_scale} of the middle must be above 0.")


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
      head_dim: width of an attention head, or None to use num_heads; divides the width of every
        level that has attention.
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
      context_channels: width of the tokens to which the network attends, wherever it attends to
        itself; or None for none.
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
        for name in ("channel_mult", "attention_resolutions", "input_pyramid", "num_res_blocks"):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))  # lists have no hash
        check_sizes(
            self,
            *("image_size", "in_channels", "channels", "num_heads", "num_groups"),
            *("channel_mult", "num_res_blocks", "attention_resolutions"),
        )
        check_sizes(
            self,
            *("num_classes", "head_dim", "out_channels", "emb_channels"),
            *("augment_channels", "context_channels"),
            or_none=True,
        )
        if not isinstance(self.condition_channels, int) or self.condition_channels < 0:
            raise ValueError(f"condition_channels={self.condition_channels} is below 0.")
        if not self.channel_mult:
            raise ValueError("channel_mult=() needs one multiple for each level.")
        if len(self.blocks) != len(self.channel_mult):
            raise ValueError(
                f"num_res_blocks={self.num_res_blocks} needs to be one number or one for each of "
                f"the {len(self.channel_mult)} levels."
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
        for width in self.attending_widths:
            if width % (self.head_dim or self.num_heads):
                raise ValueError(
                    f"width {width} of a level cannot be cut into attention heads "
                    f"(num_heads={self.num_heads}, head_dim={self.head_dim})."
                )
        if self.context_channels is not None and not self.attending_widths:
            raise ValueError(
                f"context_channels={self.context_channels}, but nothing attends to it; name "
                "attention_resolutions, or a middle with attention."
            )
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout={self.dropout} is outside [0, 1).")
        for name in ("norm_eps", "skip_scale"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name}={getattr(self, name)} must be above 0, and finite.")
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
        if len(self.input_pyramid) % 2 or (self.input_pyramid and not sum(self.input_pyramid)):
            raise ValueError(
                f"input_pyramid={self.input_pyramid} must be an even number of taps whose sum is "
                "not 0."
            )
        for name, kinds in {
            "middle": Middle,
            "resampling": Resampling,
            "noise_features": NoiseFeatures,
            "label": LabelKind,
        }.items():
            if not isinstance(value := getattr(self, name), kinds):
                raise ValueError(f"{name}={value!r} is no {getattr(kinds, '__name__', kinds)}.")
        if isinstance(self.noise_features, Sinusoidal) and self.channels < 2:
            raise ValueError("channels=1 leaves the noise level no sinusoid; use 2 or more.")

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
        if isinstance(self.num_res_blocks, tuple):
            return self.num_res_blocks
        return (self.num_res_blocks,) * len(self.channel_mult)

    @property
    def attending_widths(self) -> tuple[int, ...]:
        """Channels of every level that has attention, the middle's last."""
        levels = zip(self.widths, self.resolutions, strict=True)
        attending = [width for width, size in levels if size in self.attention_resolutions]
        return (*attending, *([self.widths[-1]] if self.middle.attention else []))

    def heads(self, width: int) -> int:
        """Attention heads of a level that is `width` channels wide."""
        return self.num_heads if self.head_dim is None else width // self.head_dim


def check_sizes(config: Any, *names: str, or_none: bool = False) -> None:
    """Raises a ValueError for a field that is no whole number above 0, or tuple of such."""
    for name in names:
        value = getattr(config, name)
        if value is None and or_none:
            continue
        for size in value if isinstance(value, tuple) else (value,):
            if not isinstance(size, int | np.integer) or isinstance(size, bool):
                raise ValueError(f"{name}={value!r} is no whole number.")
            if size < 1:
                none = "; use None for none of its own" if or_none else ""
                raise ValueError(f"{name}={value} is below 1{none}.")
