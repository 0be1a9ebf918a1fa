"""The configuration of `Autoencoder`: its shape and the scale of its latents."""

from dataclasses import dataclass

from unet_flax.rules import each, flag, float_type, real, settle, whole
from unet_flax.sizes import multiple, widths


@dataclass(frozen=True)
class AutoencoderConfig:
    """Everything that decides the autoencoder's shape, and the scale of its latents.

    The autoencoder itself neither scales nor shifts. A diffusion model works on

      z = (latent - shift_factor) * scaling_factor,  latent = z / scaling_factor + shift_factor

    where z has about unit variance.

    Attributes:
      image_channels: channels of the image; 3 for RGB.
      latent_channels: channels of the latent.
      channels: width that channel_mult multiplies.
      channel_mult: width of each level as a multiple of `channels`; every width must come out
        whole. Its length is the number of levels, each half the size of the one before.
      num_res_blocks: residual blocks in each level of the encoder; the decoder has one more.
      num_groups: groups of every GroupNorm; divides the width of every level.
      use_quant_conv: whether a 1x1 convolution of mean and log variance ends the encoder.
      use_post_quant_conv: whether a 1x1 convolution of the latent begins the decoder.
      mid_block_add_attention: whether the smallest level of each half has self-attention.
      scaling_factor: 1 / standard deviation of the latents, above 0.
      shift_factor: mean of the latents.
      dtype: type in which the network computes, "float32" or "bfloat16"; what it returns is always
        float32.
      param_dtype: type of the parameters, "float32" or "bfloat16"; training takes float32 alone.
      remat: whether blocks are computed again in the backward pass: less memory, more time.
    Raises:
      ValueError: a value of another type or outside its range, or values that contradict each
        other; one line that names the field, the value and what is allowed.
    """

    image_channels: int = 3
    latent_channels: int = 4
    channels: int = 128
    channel_mult: tuple[int | float, ...] = (1, 2, 4, 4)
    num_res_blocks: int = 2
    num_groups: int = 32
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True
    scaling_factor: float = 0.18215
    shift_factor: float = 0.0
    dtype: str = "float32"
    param_dtype: str = "float32"
    remat: bool = False

    def __post_init__(self):
        size = whole()
        settle(self, image_channels=size, latent_channels=size, channels=size)
        settle(self, channel_mult=each(multiple), num_res_blocks=size, num_groups=size)
        settle(self, use_quant_conv=flag, use_post_quant_conv=flag, mid_block_add_attention=flag)
        settle(self, scaling_factor=real(above=0), shift_factor=real())
        settle(self, dtype=float_type, param_dtype=float_type, remat=flag)
        for width in self.widths:
            if width % self.num_groups:
                raise ValueError(
                    f"num_groups={self.num_groups} does not divide the width {width} of a level; "
                    "use a divisor of every width."
                )

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level, largest level first."""
        return widths(self.channels, self.channel_mult)

    @property
    def downsample_factor(self) -> int:
        """Pixels along each axis of the image for one of the latent: 2**(levels - 1)."""
        return 2 ** (len(self.channel_mult) - 1)
