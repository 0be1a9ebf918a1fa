"""What decides a U-Net's shape, checked where it is made."""

from dataclasses import dataclass

from unet_flax.embeddings import LabelKind, Table
from unet_flax.noise_features import NoiseFeatures, Sinusoidal
from unet_flax.resample import Resampling, Strided
from unet_flax.rules import (
    Rule,
    each,
    either,
    flag,
    float_type,
    instance_of,
    one_of,
    or_none,
    real,
    settle,
    taps,
    whole,
)

NO_TAPS = Rule("()", lambda value: isinstance(value, list | tuple) and not value, tuple)


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
        settle(self, attention=flag, attention_norm=flag, skip_scale=or_none(real(above=0)))


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
      ValueError: a value of another type or outside its range, or values that contradict each
        other; one line that names the field, the value and what is allowed.
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
        size, width = whole(), or_none(whole())
        settle(self, image_size=size, in_channels=size, channels=size, channel_mult=each(size))
        settle(self, num_res_blocks=either(size, each(size)), num_classes=width, out_channels=width)
        settle(self, attention_resolutions=each(size, least=0), num_heads=size, head_dim=width)
        settle(self, num_groups=size, emb_channels=width, augment_channels=width)
        settle(self, condition_channels=whole(least=0), context_channels=width)
        settle(self, dropout=real(least=0, below=1), norm_eps=real(above=0))
        settle(self, skip_scale=real(above=0), dims=whole(1, 3))
        settle(self, scale_shift=flag, qk_norm=flag, self_conditioning=flag, remat=flag)
        settle(self, dtype=float_type, param_dtype=float_type)
        settle(self, decoder_attention=one_of("all", "last"), input_pyramid=either(taps, NO_TAPS))
        settle(self, middle=instance_of(Middle), resampling=instance_of(Resampling))
        settle(self, noise_features=instance_of(NoiseFeatures), label=instance_of(LabelKind))
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
        self.noise_features.of_width(self.channels)  # raises where they cannot be so wide

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
