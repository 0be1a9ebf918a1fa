"""The configuration of `EDM2UNet`: everything that decides its shape, checked at construction."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from unet_flax.magnitude import unit_kernels
from unet_flax.rules import each, flag, float_type, or_none, real, settle, whole
from unet_flax.sizes import check_named, known, multiple, settle_image_size, spatial, widths


@dataclass(frozen=True)
class EDM2Config:
    """Everything that decides the network's shape.

    Attributes:
      image_size: size in pixels: one number for square images, or (height, width); divisible by
        2**(levels - 1). None is not known yet.
      in_channels: channels of the image, and of the output; None is not known yet.
      channels: width of the first convolution.
      channel_mult: width of each level as a multiple of `channels`; every width must come out
        whole.
      num_res_blocks: blocks in each level of the encoder; the decoder has one more.
      attention_resolutions: heights in pixels of the levels in which each block has attention.
      head_dim: width of an attention head; divides the width of every level with attention.
      num_classes: number of class labels, or None.
      dropout: rate in [0, 1), in training only.
      label_balance, concat_balance, res_balance, attention_balance: share of the second of two
        parts in a sum or concatenation, in [0, 1].
      largest: features are clipped to [-largest, largest] after every block; finite.
      dtype: type in which the network computes, "float32" or "bfloat16"; the output is float32.
      remat: whether blocks are computed again in the backward pass: less memory, more time.
    Raises:
      ValueError: a value of another type or outside its range, or values that contradict each
        other; one line that names the field, the value and what is allowed.
    """

    image_size: int | tuple[int, ...] | None
    in_channels: int | None = 3
    channels: int = 192
    channel_mult: tuple[int | float, ...] = (1, 2, 3, 4)
    num_res_blocks: int = 3
    attention_resolutions: tuple[int, ...] = (16, 8)
    head_dim: int = 64
    num_classes: int | None = None
    dropout: float = 0.0
    label_balance: float = 0.5
    concat_balance: float = 0.5
    res_balance: float = 0.3
    attention_balance: float = 0.3
    largest: float = 256.0
    dtype: str = "float32"
    remat: bool = False

    def __post_init__(self):
        size, share = whole(), real(least=0, most=1)
        settle(self, in_channels=or_none(size), channels=size, channel_mult=each(multiple))
        settle(self, num_res_blocks=size, attention_resolutions=each(size, least=0), head_dim=size)
        settle(self, num_classes=or_none(size), dropout=real(least=0, below=1))
        settle(self, label_balance=share, concat_balance=share)
        settle(self, res_balance=share, attention_balance=share)
        settle(self, largest=real(above=0), dtype=float_type, remat=flag)
        settle_image_size(self, 2, len(self.channel_mult))
        attending = [self.widths[-1]]  # the middle attends
        if self.image_size is not None:
            check_named("attention_resolutions", self.attention_resolutions, self.resolutions)
            levels = zip(self.widths, self.attends, strict=True)
            attending += [width for width, attends in levels if attends]
        for width in attending:
            if width % self.head_dim:
                raise ValueError(
                    f"head_dim={self.head_dim} does not divide the width {width} of a level with "
                    "attention; use a divisor."
                )

    @property
    def spatial(self) -> tuple[int, ...]:
        """(height, width); raises a ValueError where they are not known yet."""
        return spatial(self.image_size, 2)

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Height of each level, largest first."""
        return tuple(self.spatial[0] >> level for level in range(len(self.channel_mult)))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return widths(self.channels, self.channel_mult)

    @property
    def attends(self) -> tuple[bool, ...]:
        """Whether each level has attention."""
        return tuple(size in self.attention_resolutions for size in self.resolutions)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image; raises a ValueError where it is not known yet."""
        return (*self.spatial, known("in_channels", self.in_channels))

    @property
    def output_channels(self) -> int:
        """Channels of the output; raises a ValueError where they are not known yet."""
        return known("in_channels", self.in_channels)

    @property
    def has_null(self) -> bool:
        """Whether label -1 is the null class: it is."""
        return True

    @property
    def inputs(self) -> dict[str, tuple[int | None, ...]]:
        """What the network takes beside x and c_noise: name to shape for one image."""
        return {} if self.num_classes is None else {"label": ()}

    @property
    def optional_inputs(self) -> frozenset[str]:
        """Those of `inputs` that may be left out."""
        return frozenset(self.inputs)

    @property
    def project(self) -> Callable[[Any], Any]:
        """What runs on the parameters after each update of training."""
        return unit_kernels
