"""Diffusion U-Nets for any Flax project. Depends on jax and flax alone."""

from unet_flax import presets
from unet_flax.attention import AttentionPool, CrossAttention, SelfAttention
from unet_flax.autoencoder import Autoencoder
from unet_flax.autoencoder_config import AutoencoderConfig
from unet_flax.blocks import GroupNorm, ResBlock
from unet_flax.classic import ClassicUNet, Classifier, ConvBlock, DownBlock, Encoder, UpBlock
from unet_flax.classifier import UNetClassifier, UNetClassifierConfig
from unet_flax.config import Middle, UNetConfig
from unet_flax.cpu import tune_cpu
from unet_flax.diffusers import load_diffusers, save_diffusers
from unet_flax.edm2 import EDM2Config, EDM2UNet
from unet_flax.embeddings import Embedding, LabelEmbedding, OneHot, Table
from unet_flax.functional import functional
from unet_flax.magnitude import unit_kernels
from unet_flax.model import Model, fitted, make, module
from unet_flax.noise_features import Fourier, Sinusoidal
from unet_flax.noise_features import sinusoidal as sinusoidal
from unet_flax.resample import Downsample, Pool, Residual, Resize, Strided, Upsample
from unet_flax.text_encoder import TextEncoder, TextEncoderConfig
from unet_flax.unet import UNet

__all__ = [
    "AttentionPool",
    "Autoencoder",
    "AutoencoderConfig",
    "Classifier",
    "ClassicUNet",
    "ConvBlock",
    "CrossAttention",
    "DownBlock",
    "Downsample",
    "EDM2Config",
    "EDM2UNet",
    "Embedding",
    "Encoder",
    "Fourier",
    "GroupNorm",
    "LabelEmbedding",
    "Middle",
    "Model",
    "OneHot",
    "Pool",
    "ResBlock",
    "Residual",
    "Resize",
    "SelfAttention",
    "Sinusoidal",
    "Strided",
    "Table",
    "TextEncoder",
    "TextEncoderConfig",
    "UNet",
    "UNetClassifier",
    "UNetClassifierConfig",
    "UNetConfig",
    "UpBlock",
    "Upsample",
    "fitted",
    "functional",
    "load_diffusers",
    "make",
    "module",
    "presets",
    "save_diffusers",
    "sinusoidal",
    "tune_cpu",
    "unit_kernels",
]
