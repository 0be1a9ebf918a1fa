"""The published networks, by name; each gives exactly the published number of parameters."""

import math

from unet_flax.config import UNetConfig
from unet_flax.edm2 import EDM2Config
from unet_flax.embeddings import OneHot, Table
from unet_flax.noise_features import Fourier, Sinusoidal
from unet_flax.resample import Residual, Strided

ROOT_HALF = math.sqrt(0.5)


def ddpm_cifar10() -> UNetConfig:
    """The U-Net of DDPM for 32x32 images: 35,746,307 parameters.

    Source: Ho et al. 2020, arXiv:2006.11239, section 4 and appendix B.
    """
    return UNetConfig(
        image_size=32,
        channels=128,
        channel_mult=(1, 2, 2, 2),
        num_res_blocks=2,
        attention_resolutions=(16,),
        dropout=0.1,
    )


def ddpm_celebahq256() -> UNetConfig:
    """The U-Net of DDPM for 256x256 images (CelebA-HQ, LSUN): 113,673,219 parameters.

    Source: Ho et al. 2020, arXiv:2006.11239, appendix B.
    """
    return UNetConfig(
        image_size=256,
        channels=128,
        channel_mult=(1, 1, 2, 2, 4, 4),
        num_res_blocks=2,
        attention_resolutions=(16,),
    )


def scoresde_ddpmpp_cifar10() -> UNetConfig:
    """DDPM++ for 32x32 images: 61.8 M parameters.

    Source: Song et al. 2021, arXiv:2011.13456, appendix H.
    """
    return UNetConfig(
        image_size=32,
        channels=128,
        channel_mult=(1, 2, 2, 2),
        num_res_blocks=4,
        attention_resolutions=(16,),
        decoder_attention="last",
        resampling=Residual(projects_skip=True),
        skip_scale=ROOT_HALF,
        dropout=0.1,
    )


def iddpm_cifar10() -> UNetConfig:
    """Improved DDPM for 32x32 images, with a learned variance (6 channels): 52.5 M parameters.

    Source: Nichol & Dhariwal 2021, arXiv:2102.09672, appendix A.
    """
    return UNetConfig(
        image_size=32,
        out_channels=6,
        channels=128,
        channel_mult=(1, 2, 2, 2),
        num_res_blocks=3,
        attention_resolutions=(16, 8),
        num_heads=4,
        scale_shift=True,
        resampling=Strided(symmetric=True),
        noise_features=Sinusoidal(cos_first=True, shift=0.0),
        norm_eps=1e-5,
        dropout=0.3,
    )


def edm_ddpmpp_cifar10(num_classes: int | None = None) -> UNetConfig:
    """DDPM++ as EDM trains it on 32x32 images: 55,733,891 parameters; 55,735,299 with 10 classes.

    Source: Karras et al. 2022, arXiv:2206.00364, appendix F and table 7.
    """
    return UNetConfig(
        image_size=32,
        channels=128,
        channel_mult=(2, 2, 2),
        num_res_blocks=4,
        attention_resolutions=(16,),
        decoder_attention="last",
        resampling=Residual(projects_skip=True),
        skip_scale=ROOT_HALF,
        num_classes=num_classes,
        label=OneHot(),
        augment_channels=9,
        dropout=0.13,
    )


def edm_ncsnpp_cifar10(num_classes: int | None = None) -> UNetConfig:
    """NCSN++ as EDM trains it on 32x32 images: 56.4 M parameters.

    Source: Karras et al. 2022, arXiv:2206.00364, appendix F and table 7; Song et al. 2021,
      arXiv:2011.13456, appendix H.
    """
    taps = (1.0, 3.0, 3.0, 1.0)
    return UNetConfig(
        image_size=32,
        channels=128,
        channel_mult=(2, 2, 2),
        num_res_blocks=4,
        attention_resolutions=(16,),
        decoder_attention="last",
        resampling=Residual(taps=taps, projects_skip=True),
        input_pyramid=taps,
        skip_scale=ROOT_HALF,
        noise_features=Fourier(scale=16.0, channels=256),
        num_classes=num_classes,
        label=OneHot(),
        augment_channels=9,
        dropout=0.13,
    )


def _adm(image_size: int, num_classes: int | None, **settings) -> UNetConfig:
    return UNetConfig(
        image_size=image_size,
        out_channels=6,
        attention_resolutions=(32, 16, 8),
        head_dim=64,
        scale_shift=True,
        resampling=Residual(),
        noise_features=Sinusoidal(cos_first=True, shift=0.0),
        norm_eps=1e-5,
        num_classes=num_classes,
        label=Table(has_null=False),
        **settings,
    )


def adm_imagenet64(num_classes: int | None = 1000) -> UNetConfig:
    """ADM for 64x64 images, with a learned variance (6 channels): 296 M parameters.

    Source: Dhariwal & Nichol 2021, arXiv:2105.05233, section 3 and appendix I.
    """
    return _adm(
        64, num_classes, channels=192, channel_mult=(1, 2, 3, 4), num_res_blocks=3, dropout=0.1
    )


def adm_imagenet256(num_classes: int | None = 1000) -> UNetConfig:
    """ADM for 256x256 images, with a learned variance (6 channels): 554 M parameters.

    Source: Dhariwal & Nichol 2021, arXiv:2105.05233, section 3 and appendix I.
    """
    return _adm(256, num_classes, channels=256, channel_mult=(1, 1, 2, 2, 4, 4), num_res_blocks=2)


def edm2_s_imagenet64(num_classes: int | None = 1000) -> EDM2Config:
    """EDM2's small network for 64x64 images: 280 M parameters; make it by `EDM2UNet`.

    Source: Karras et al. 2023, arXiv:2312.02696, table 6.
    """
    return EDM2Config(
        image_size=64,
        channels=192,
        channel_mult=(1, 2, 3, 4),
        num_res_blocks=3,
        attention_resolutions=(16, 8),
        num_classes=num_classes,
    )
