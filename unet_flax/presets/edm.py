"""EDM's networks: DDPM++, NCSN++ and ADM."""

import math
from typing import Any

from unet_flax.config import UNetConfig
from unet_flax.embeddings import OneHot
from unet_flax.noise_features import Fourier
from unet_flax.presets.adm import adm
from unet_flax.resample import Residual


def _ddpmpp(image_size: int, channel_mult: tuple[int | float, ...], **settings: Any) -> UNetConfig:
    return UNetConfig(
        image_size=image_size,
        channels=128,
        channel_mult=channel_mult,
        num_res_blocks=4,
        attention_resolutions=(16,),
        decoder_attention="last",
        resampling=Residual(projects_skip=True),
        skip_scale=math.sqrt(0.5),
        label=OneHot(),
        augment_channels=9,
        **settings,
    )


def edm_ddpmpp_cifar10(num_classes: int | None = None) -> UNetConfig:
    """DDPM++ as EDM trains it on 32x32 images: 55,733,891 parameters; 55,735,299 with 10 classes.

    Source: Karras et al. 2022, arXiv:2206.00364, appendix F and table 7.
    """
    return _ddpmpp(32, (2, 2, 2), num_classes=num_classes, dropout=0.13)


def edm_ffhq64_ddpmpp() -> UNetConfig:
    """DDPM++ as EDM trains it on 64x64 images of FFHQ: 61,805,571 parameters.

    For AFHQv2 the paper has the same network with a dropout of 0.25.

    Source: Karras et al. 2022, arXiv:2206.00364, appendix F and table 7.
    """
    return _ddpmpp(64, (1, 2, 2, 2), dropout=0.05)


def edm_ncsnpp_cifar10(num_classes: int | None = None) -> UNetConfig:
    """NCSN++ as EDM trains it on 32x32 images: 56,397,827 parameters.

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
        skip_scale=math.sqrt(0.5),
        noise_features=Fourier(scale=16.0, channels=256),
        num_classes=num_classes,
        label=OneHot(),
        augment_channels=9,
        dropout=0.13,
    )


def edm_imagenet64_adm(num_classes: int | None = 1000) -> UNetConfig:
    """ADM as EDM trains it on 64x64 images: 295,899,267 parameters.

    The network of `adm_imagenet64` with 3 output channels: EDM learns no variance.

    Source: Karras et al. 2022, arXiv:2206.00364, appendix F and table 7.
    """
    return adm(
        64,
        num_classes,
        out_channels=3,
        channels=192,
        channel_mult=(1, 2, 3, 4),
        num_res_blocks=3,
        dropout=0.1,
    )
