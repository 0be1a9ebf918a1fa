"""Diffusion U-Nets for any Flax project. Depends on jax and flax alone."""

from unet_flax import presets
from unet_flax.attention import SelfAttention
from unet_flax.blocks import Downsample, GroupNorm, ResBlock, Upsample
from unet_flax.embeddings import LabelEmbedding, NoiseEmbedding, sinusoidal
from unet_flax.unet import UNet, UNetConfig, functional

__all__ = [
    "Downsample",
    "GroupNorm",
    "LabelEmbedding",
    "NoiseEmbedding",
    "ResBlock",
    "SelfAttention",
    "UNet",
    "UNetConfig",
    "Upsample",
    "functional",
    "presets",
    "sinusoidal",
]
