"""The configuration of `UNet`: everything that decides its shape, checked at construction."""

from dataclasses import dataclass

from unet_flax.blocks import ACTIVATIONS
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
from unet_flax.sizes import check_named, known, multiple, settle_image_size, spatial, widths
from unet_flax.text_encoder import TextEncoderConfig

NO_TAPS = Rule("()", lambda value: isinstance(value, list | tuple) and not value, tuple)


@dataclass(frozen=True)
class Middle:
    """The bottom of the U: a residual block, self-attention, a residual block.

    Attributes:
      attention: whether it has self-attention.
      attention_norm: whether the attention's input is normalised; diffusers leaves that out where
        the network has scale-shift.
      skip_scale: factor of every sum in the middle, or None for the network's.
      attention_groups: groups of the attention's normalisation, or None for the network's.
      exists: whether there is a middle; without one the decoder follows the encoder directly.
    """

    attention: bool = True
    attention_norm: bool = True
    skip_scale: float | None = None
    attention_groups: int | None = None
    exists: bool = True

    def __post_init__(self):
        settle(self, exists=flag, attention=flag, attention_norm=flag)
        settle(self, attention_groups=or_none(whole()), skip_scale=or_none(real(above=0)))

    @property
    def attends(self) -> bool:
        """Whether there is a middle with attention."""
        return self.exists and self.attention


@dataclass(frozen=True)
class UNetConfig:
    """Everything that decides the network's shape.

    Attributes:
      image_size: size in pixels: one number for square images, or (height, width); one number for
        each axis where dims is not 2; divisible by 2**(levels - 1). None is not known yet.
      in_channels: channels of the image; 3 for RGB, 1 for grey; None is not known yet.
      channels: width of the first convolution.
      channel_mult: width of each level as a multiple of `channels`, whole or not, such as 0.5;
        every width must come out whole. Its length is the number of levels, each half the size of
        the one before.
      num_res_blocks: residual blocks in each level of the encoder, one number or one for each
        level; the decoder has one more.
      attention_resolutions: heights in pixels (not factors) of the levels in which each block is
        followed by attention; lengths in one dimension, depths in three.
      decoder_attention_resolutions: the same for the decoder, or None for the encoder's.
      num_classes: number of class labels, or None for an unconditional network.
      dropout: rate in [0, 1) inside the residual blocks, in training only.
      out_channels: channels of the output, or None for as many as the image.
      num_heads: attention heads; ignored where head_dim is given.
      head_dim: width of an attention head, or None to use num_heads. A level has as many heads as
        its width has room for; where head_dim does not divide the width, queries, keys and values
        are narrower than the level.
      num_groups: groups of every GroupNorm; divides the width of every level.
      norm_eps: added to the variance in every GroupNorm.
      dtype: type in which the network computes, "float32" or "bfloat16"; the output is always
        float32.
      param_dtype: type of the parameters, "float32" or "bfloat16"; training takes float32 alone.
      activation: of the residual blocks: "silu", "mish", "gelu" (exact) or "relu".
      scale_shift: whether the embedding scales and shifts the normalised features, or is added.
      skip_scale: factor of every sum of a block and its skip path; 1/sqrt(2) keeps the variance.
      qk_norm: whether attention normalises queries and keys.
      decoder_attention: "all", or "last" for the last block of a level alone.
      middle: the bottom of the U.
      resampling: how images are halved and doubled between levels: Strided, Pool, Resize or
        Residual; or a tuple with one kind for each pair of neighbouring levels, largest first.
      decoder_resampling: kinds for the decoder, one for each pair of neighbouring levels, largest
        first; or () for the encoder's.
      input_pyramid: taps of the filter that halves the image for each level of the encoder, which
        adds it to its features (NCSN++); or () for no such images.
      emb_channels: width of the embedding, or None for 4 * channels.
      noise_features: features of the noise level: Sinusoidal or Fourier.
      label: embedding of the class: Table or OneHot.
      augment_channels: width of the augmentation label, or None for none.
      condition_channels: channels of a conditioning image, concatenated to the noisy one; or 0.
      context_channels: width of the tokens for cross-attention, which follows every self-attention;
        or None for no cross-attention.
      text: the transformer that reads a text for cross-attention, trained with the network; None
        for none. The mean of what it returns is added to the embedding, too.
      self_conditioning: whether the network takes its own last estimate as a further input.
      center_input: whether the network computes with 2 x - 1 in place of x, for images in [0, 1].
      dims: spatial axes: 1, 2 or 3.
      remat: whether blocks are computed again in the backward pass: less memory, more time.
    Raises:
      ValueError: a value of another type or outside its range, or values that contradict each
        other; one line that names the field, the value and what is allowed.
    """

    image_size: int | tuple[int, ...] | None
    in_channels: int | None = 3
    channels: int = 128
    channel_mult: tuple[int | float, ...] = (1, 2, 2, 2)
    num_res_blocks: int | tuple[int, ...] = 2
    attention_resolutions: tuple[int, ...] = (16,)
    decoder_attention_resolutions: tuple[int, ...] | None = None
    num_classes: int | None = None
    dropout: float = 0.0
    out_channels: int | None = None
    num_heads: int = 1
    head_dim: int | None = None
    num_groups: int = 32
    norm_eps: float = 1e-6
    dtype: str = "float32"
    param_dtype: str = "float32"
    activation: str = "silu"
    scale_shift: bool = False
    skip_scale: float = 1.0
    qk_norm: bool = False
    decoder_attention: str = "all"
    middle: Middle = Middle()
    resampling: Resampling | tuple[Resampling, ...] = Strided()
    decoder_resampling: tuple[Resampling, ...] = ()
    input_pyramid: tuple[float, ...] = ()
    emb_channels: int | None = None
    noise_features: NoiseFeatures = Sinusoidal()
    label: LabelKind = Table()
    augment_channels: int | None = None
    condition_channels: int = 0
    context_channels: int | None = None
    text: TextEncoderConfig | None = None
    self_conditioning: bool = False
    center_input: bool = False
    dims: int = 2
    remat: bool = False

    def __post_init__(self):
        size, width, kind = whole(), or_none(whole()), instance_of(Resampling)
        settle(self, dims=whole(1, 3), in_channels=width, channels=size)
        settle(self, channel_mult=each(multiple), num_res_blocks=either(size, each(size)))
        settle(self, attention_resolutions=each(size, least=0), num_heads=size, head_dim=width)
        settle(self, decoder_attention_resolutions=or_none(each(size, least=0)))
        settle(self, num_classes=width, out_channels=width)
        settle(self, num_groups=size, emb_channels=width, augment_channels=width)
        settle(self, condition_channels=whole(least=0), context_channels=width)
        settle(self, dropout=real(least=0, below=1), norm_eps=real(above=0))
        settle(self, skip_scale=real(above=0), activation=one_of(*ACTIVATIONS))
        settle(self, scale_shift=flag, qk_norm=flag, self_conditioning=flag, remat=flag)
        settle(self, center_input=flag, dtype=float_type, param_dtype=float_type)
        settle(self, decoder_attention=one_of("all", "last"), input_pyramid=either(taps, NO_TAPS))
        settle(self, middle=instance_of(Middle), resampling=either(kind, each(kind, least=0)))
        settle(self, decoder_resampling=each(kind, least=0))
        settle(self, noise_features=instance_of(NoiseFeatures), label=instance_of(LabelKind))
        settle_image_size(self, self.dims, self.num_levels)
        settle(self, text=or_none(instance_of(TextEncoderConfig)))
        self._check_levels()
        self._check_attention()
        self.noise_features.of_width(self.channels)  # raises where they cannot be so wide

    def _check_levels(self) -> None:
        if len(self.blocks) != self.num_levels:
            raise ValueError(
                f"num_res_blocks={self.num_res_blocks} needs to be one number or one for each of "
                f"the {self.num_levels} levels."
            )
        for name in ("resampling", "decoder_resampling"):
            kinds = getattr(self, name)
            is_open = kinds == () and name == "decoder_resampling"
            if isinstance(kinds, tuple) and len(kinds) != self.num_levels - 1 and not is_open:
                raise ValueError(
                    f"{name}={kinds} has {len(kinds)} kinds; {self.num_levels} levels need "
                    f"{self.num_levels - 1}, one for each pair of neighbouring levels."
                )
        for width in {self.channels, *self.widths}:
            if width % self.num_groups:
                raise ValueError(
                    f"num_groups={self.num_groups} does not divide the width {width} of a level; "
                    "use a divisor of every width."
                )
        groups = self.middle.attention_groups
        if groups is not None and self.widths[-1] % groups:
            raise ValueError(
                f"attention_groups={groups} of the middle does not divide its width "
                f"{self.widths[-1]}; use a divisor."
            )

    def _check_attention(self) -> None:
        if self.text is not None and self.context_channels is not None:
            raise ValueError(
                f"context_channels={self.context_channels} beside a text encoder, whose tokens are "
                "the context; use one of the two."
            )
        if self.image_size is None:
            return  # which levels attend is not known yet
        for name in ("attention_resolutions", "decoder_attention_resolutions"):
            check_named(name, getattr(self, name) or (), self.resolutions)
        for width in self.attending_widths:
            too_wide = self.head_dim is not None and self.head_dim > width
            if too_wide or (self.head_dim is None and width % self.num_heads):
                raise ValueError(
                    f"width {width} of a level cannot be cut into attention heads "
                    f"(num_heads={self.num_heads}, head_dim={self.head_dim}); use num_heads that "
                    "divide it, or a head_dim of at most the width."
                )
        if self.context_width is not None and not self.attending_widths:
            field = "text" if self.context_channels is None else "context_channels"
            raise ValueError(
                f"{field}={getattr(self, field)}, but nothing attends to it; name "
                "attention_resolutions, or a middle with attention."
            )

    @property
    def num_levels(self) -> int:
        """Levels of the U."""
        return len(self.channel_mult)

    @property
    def spatial(self) -> tuple[int, ...]:
        """Size along each spatial axis; raises a ValueError where it is not known yet."""
        return spatial(self.image_size, self.dims)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Height of each level (length in one dimension, depth in three), largest first."""
        return tuple(self.spatial[0] >> level for level in range(self.num_levels))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return widths(self.channels, self.channel_mult)

    @property
    def blocks(self) -> tuple[int, ...]:
        """Residual blocks of each level of the encoder."""
        if isinstance(self.num_res_blocks, tuple):
            return self.num_res_blocks
        return (self.num_res_blocks,) * self.num_levels

    @property
    def encoder_attends(self) -> tuple[bool, ...]:
        """Whether each level of the encoder has attention."""
        return tuple(size in self.attention_resolutions for size in self.resolutions)

    @property
    def decoder_attends(self) -> tuple[bool, ...]:
        """Whether each level of the decoder has attention, the largest level first."""
        named = self.decoder_attention_resolutions
        named = self.attention_resolutions if named is None else named
        return tuple(size in named for size in self.resolutions)

    @property
    def attending_widths(self) -> tuple[int, ...]:
        """Channels of every level that has attention in either half, the middle's last."""
        levels = zip(self.widths, self.encoder_attends, self.decoder_attends, strict=True)
        attending = [width for width, *attends in levels if any(attends)]
        return (*attending, *([self.widths[-1]] if self.middle.attends else []))

    @property
    def context_width(self) -> int | None:
        """Width of the tokens for cross-attention, from outside or of the text encoder."""
        return self.context_channels if self.text is None else self.text.channels

    @property
    def downsampling(self) -> tuple[Resampling, ...]:
        """How each level becomes the next smaller one."""
        if isinstance(self.resampling, tuple):
            return self.resampling
        return (self.resampling,) * (self.num_levels - 1)

    @property
    def upsampling(self) -> tuple[Resampling, ...]:
        """How each level is reached from the next smaller one."""
        return self.decoder_resampling or self.downsampling

    def heads(self, width: int) -> int:
        """Attention heads of a level that is `width` channels wide."""
        return self.num_heads if self.head_dim is None else width // self.head_dim

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image; raises a ValueError where it is not known yet."""
        return (*self.spatial, known("in_channels", self.in_channels))

    @property
    def output_channels(self) -> int:
        """Channels of the output; raises a ValueError where they are not known yet."""
        return self.out_channels or known("in_channels", self.in_channels)

    @property
    def has_null(self) -> bool:
        """Whether label -1 is the null class."""
        return self.label.has_null

    @property
    def inputs(self) -> dict[str, tuple[int | None, ...]]:
        """What the network takes beside x and c_noise: name to shape for one image.

        None is a free length, or one that is not known yet.
        """
        size: tuple[int | None, ...] = (None,) * self.dims
        if self.image_size is not None:
            size = self.spatial
        return {
            **({} if self.num_classes is None else {"label": ()}),
            **(
                {} if self.augment_channels is None else {"augment_label": (self.augment_channels,)}
            ),
            **({} if self.context_channels is None else {"context": (None, self.context_channels)}),
            **({} if self.context_channels is None else {"context_mask": (None,)}),
            **({} if self.text is None else {"text": (self.text.num_tokens,)}),
            **({"condition": (*size, self.condition_channels)} if self.condition_channels else {}),
            **({"x_0_hat": (*size, self.in_channels)} if self.self_conditioning else {}),
        }

    @property
    def optional_inputs(self) -> frozenset[str]:
        """Those of `inputs` that may be left out."""
        optional = {
            "augment_label",
            "context_mask",
            "text",
            "x_0_hat",
            *(["label"] * self.has_null),
        }
        return frozenset(optional & self.inputs.keys())

    @property
    def project(self) -> None:
        """What runs on the parameters after each update of training: nothing."""
        return None
