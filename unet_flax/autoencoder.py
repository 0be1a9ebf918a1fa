"""The KL autoencoder of latent diffusion: from images to smaller latents, and back.

    mean, log_variance = encode(image)
    latent = mean + exp(log_variance / 2) * eps,  eps ~ N(0, I)
    image = decode(latent)

Source: Rombach et al. 2022, arXiv:2112.10752, section 3.1 and appendix G, in the layout of
diffusers' AutoencoderKL.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from unet_flax.attention import SelfAttention
from unet_flax.autoencoder_config import AutoencoderConfig
from unet_flax.blocks import INIT, GroupNorm, ResBlock, conv, identity
from unet_flax.resample import Downsample, Upsample
from unet_flax.rules import array_like

NORM_EPS = 1e-6
"""Of every GroupNorm."""

LOG_VARIANCES = -30.0, 20.0
"""Bounds of the log variance, so that neither it nor its exponential overflows."""


class Autoencoder(nnx.Module):
    """Encodes images as Gaussian latents, and decodes latents.

    Its halves are modules of their own, so that each can be a pure function:
    `decode, params = unet_flax.functional(autoencoder.decoder)`.

    Example:
      autoencoder = Autoencoder(presets.sd_autoencoder(), rngs=nnx.Rngs(0))
      mean, log_variance = autoencoder.encode(image)  # (B, 512, 512, 3) to (B, 64, 64, 4)
      image = autoencoder.decode(mean)

    Source: Rombach et al. 2022, arXiv:2112.10752, section 3.1 and appendix G. Deviation: the last
      layer of each residual block and of the attention is zero at initialisation.
    """

    def __init__(self, config: AutoencoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        self.encoder = LatentEncoder(config, rngs=rngs)
        self.decoder = LatentDecoder(config, rngs=rngs)

    def encode(
        self, image: Float[Array, "B H W C"]
    ) -> tuple[Float[Array, "B h w D"], Float[Array, "B h w D"]]:
        """Mean and log variance of the latent; unscaled, see `AutoencoderConfig`.

        Args:
          image: float in [-1, 1]; height and width divisible by config.downsample_factor.
        Returns:
          (mean, log_variance), float32; log_variance in [-30, 20].
        Raises:
          ValueError: the image has another type, other channels or such a size.
        """
        return self.encoder(image)

    def decode(self, latent: Float[Array, "B h w D"]) -> Float[Array, "B H W C"]:
        """The image of a latent, float32, about in [-1, 1]; the latent is unscaled.

        Raises:
          ValueError: the latent has another type or other channels.
        """
        return self.decoder(latent)

    def __call__(
        self, image: Float[Array, "B H W C"], key: Key[Array, ""] | None = None
    ) -> tuple[Float[Array, "B H W C"], Float[Array, "B h w D"], Float[Array, "B h w D"]]:
        """Encodes and decodes, as training does: (image, mean, log_variance).

        Args:
          image: see `encode`.
          key: randomness of the latent; None decodes its mean.
        """
        mean, log_variance = self.encode(image)
        latent = mean if key is None else sample(mean, log_variance, key)
        return self.decode(latent), mean, log_variance


class LatentEncoder(nnx.Module):
    """From an image to mean and log variance of its latent, see `Autoencoder.encode`."""

    def __init__(self, config: AutoencoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        parts = Parts(config, rngs)
        width, moments = config.widths[0], 2 * config.latent_channels
        self.conv_in = conv(config.image_channels, width, **parts.convs)
        self.levels = nnx.List([])
        for level_width in config.widths:
            if len(self.levels) > 0:
                self.levels[-1].append(Downsample(width, **parts.convs))
            blocks = parts.res_blocks(width, level_width, config.num_res_blocks)
            self.levels.append(nnx.List(blocks))
            width = level_width
        self.middle = nnx.List(parts.middle(width))
        self.norm_out = parts.norm(width)
        self.conv_out = conv(width, moments, **parts.convs)
        self.quant_conv = parts.pixelwise(moments) if config.use_quant_conv else identity

    def __call__(
        self, image: Float[Array, "B H W C"]
    ) -> tuple[Float[Array, "B h w D"], Float[Array, "B h w D"]]:
        _check("image", image, self.config.image_channels)
        factor = self.config.downsample_factor
        if any(size % factor for size in image.shape[1:3]):
            raise ValueError(
                f"an image of height and width {image.shape[1:3]} is not divisible by {factor} = "
                "2**(levels - 1); crop or resize it to a multiple."
            )
        h = self.conv_in(image)
        call = _caller(self.config)
        for level in self.levels:
            for block in level:
                h = call(block, h)
        for block in self.middle:
            h = call(block, h)
        h = self.quant_conv(self.conv_out(nnx.silu(self.norm_out(h))))
        mean, log_variance = jnp.split(h.astype(jnp.float32), 2, axis=-1)
        return mean, jnp.clip(log_variance, *LOG_VARIANCES)


class LatentDecoder(nnx.Module):
    """From a latent to its image, see `Autoencoder.decode`."""

    def __init__(self, config: AutoencoderConfig, *, rngs: nnx.Rngs):
        self.config = config
        parts = Parts(config, rngs)
        width, latent = config.widths[-1], config.latent_channels
        self.post_quant_conv = parts.pixelwise(latent) if config.use_post_quant_conv else identity
        self.conv_in = conv(latent, width, **parts.convs)
        self.middle = nnx.List(parts.middle(width))
        self.levels = nnx.List([])
        for level_width in reversed(config.widths):
            if len(self.levels) > 0:
                self.levels[-1].append(Upsample(width, **parts.convs))
            blocks = parts.res_blocks(width, level_width, config.num_res_blocks + 1)
            self.levels.append(nnx.List(blocks))
            width = level_width
        self.norm_out = parts.norm(width)
        self.conv_out = conv(width, config.image_channels, **parts.convs)

    def __call__(self, latent: Float[Array, "B h w D"]) -> Float[Array, "B H W C"]:
        _check("latent", latent, self.config.latent_channels)
        h = self.conv_in(self.post_quant_conv(latent))
        call = _caller(self.config)
        for block in self.middle:
            h = call(block, h)
        for level in self.levels:
            for block in level:
                h = call(block, h)
        return self.conv_out(nnx.silu(self.norm_out(h))).astype(jnp.float32)


class Parts:
    """Makes the parts of one half of the autoencoder, with the settings that they share."""

    def __init__(self, config: AutoencoderConfig, rngs: nnx.Rngs):
        self.config = config
        self.types: dict[str, Any] = dict(
            dtype=jnp.dtype(config.dtype), param_dtype=jnp.dtype(config.param_dtype)
        )
        self.convs: dict[str, Any] = dict(rngs=rngs, **self.types)
        self.blocks: dict[str, Any] = dict(
            num_groups=config.num_groups, norm_eps=NORM_EPS, **self.convs
        )

    def res_blocks(self, in_width: int, width: int, num_blocks: int) -> list[nnx.Module]:
        """The residual blocks of a level, the first of which changes the width."""
        in_widths = [in_width] + [width] * (num_blocks - 1)
        return [ResBlock(before, width, **self.blocks) for before in in_widths]

    def middle(self, width: int) -> list[nnx.Module]:
        """A residual block, self-attention with one head where there is any, a residual block."""
        around = [ResBlock(width, width, **self.blocks) for _ in range(2)]
        attention = (
            [SelfAttention(width, **self.blocks)] if self.config.mid_block_add_attention else []
        )
        return [around[0], *attention, around[1]]

    def norm(self, width: int) -> GroupNorm:
        return GroupNorm(width, self.config.num_groups, NORM_EPS, **self.types)

    def pixelwise(self, width: int) -> nnx.Linear:
        """A 1x1 convolution."""
        return nnx.Linear(width, width, kernel_init=INIT, **self.convs)


def _caller(config: AutoencoderConfig) -> Callable[[Any, Array], Array]:
    """How a block is called: with or without computing it again in the backward pass."""
    return nnx.remat(_call) if config.remat else _call


def _call(block: Any, h: Array) -> Array:
    return block(h)


def _check(name: str, array: Any, channels: int) -> None:
    """Raises a ValueError unless it is a batch of float images with so many channels."""
    array_like(name, array)
    if not jnp.issubdtype(array.dtype, jnp.floating):
        raise ValueError(f"{name} of type {array.dtype} must be float.")
    if len(array.shape) != 4 or array.shape[-1] != channels:
        raise ValueError(
            f"{name} of shape {array.shape} does not fit this autoencoder, which takes "
            f"(B, height, width, {channels})."
        )


def sample(
    mean: Float[Array, "*latent"], log_variance: Float[Array, "*latent"], key: Key[Array, ""]
) -> Float[Array, "*latent"]:
    """A latent: mean + exp(log_variance / 2) * eps, eps unit noise of the key."""
    eps = jax.random.normal(key, mean.shape, mean.dtype)
    return mean + jnp.exp(log_variance / 2) * eps
