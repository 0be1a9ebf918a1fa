"""DDPM and DDPM++ of score-based SDEs, improved DDPM."""

import math

from unet_flax.config import UNetConfig
from unet_flax.noise_features import Sinusoidal
from unet_flax.resample import Residual, Strided


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
    """DDPM++ for 32x32 images: 61,804,419 parameters.

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
        skip_scale=math.sqrt(0.5),
        dropout=0.1,
    )


def iddpm_cifar10() -> UNetConfig:
    """Improved DDPM for 32x32 images, with a learned variance (6 channels): 52,546,438 parameters.

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
