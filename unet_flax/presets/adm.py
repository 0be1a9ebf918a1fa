"""ADM's networks, with a learned variance (6 output channels), and its classifiers."""

from typing import Any

from unet_flax.classifier import UNetClassifierConfig
from unet_flax.config import UNetConfig
from unet_flax.embeddings import Table
from unet_flax.noise_features import Sinusoidal
from unet_flax.resample import Residual


def adm(image_size: int, num_classes: int | None, **settings: Any) -> UNetConfig:
    """What all networks of the paper have in common; settings change it."""
    common: dict[str, Any] = dict(
        out_channels=6,
        attention_resolutions=(32, 16, 8),
        head_dim=64,
        scale_shift=True,
        resampling=Residual(),
        noise_features=Sinusoidal(cos_first=True, shift=0.0),
        norm_eps=1e-5,
        label=Table(has_null=False),
    )
    return UNetConfig(image_size=image_size, num_classes=num_classes, **common | settings)


def adm_imagenet64(num_classes: int | None = 1000) -> UNetConfig:
    """ADM for 64x64 images, with a learned variance (6 channels): 295,904,454 parameters.

    Source: Dhariwal & Nichol 2021, arXiv:2105.05233, section 3 and appendix I.
    """
    return adm(
        64, num_classes, channels=192, channel_mult=(1, 2, 3, 4), num_res_blocks=3, dropout=0.1
    )


def adm_imagenet128(num_classes: int | None = 1000) -> UNetConfig:
    """ADM for 128x128 images, with a learned variance (6 channels): 421,529,606 parameters.

    Four heads in every level, as the published checkpoint has them.

    Source: Dhariwal & Nichol 2021, arXiv:2105.05233, section 3 and appendix I.
    """
    return adm(
        128,
        num_classes,
        channels=256,
        channel_mult=(1, 1, 2, 3, 4),
        num_res_blocks=2,
        num_heads=4,
        head_dim=None,
    )


def adm_imagenet256(num_classes: int | None = 1000) -> UNetConfig:
    """ADM for 256x256 images, with a learned variance (6 channels): 553,838,086 parameters.

    Source: Dhariwal & Nichol 2021, arXiv:2105.05233, section 3 and appendix I.
    """
    return adm(256, num_classes, channels=256, channel_mult=(1, 1, 2, 2, 4, 4), num_res_blocks=2)


def adm_imagenet512(num_classes: int | None = 1000) -> UNetConfig:
    """ADM for 512x512 images, with a learned variance (6 channels): 558,997,638 parameters.

    The paper's channel multiples are 0.5, 1, 1, 2, 2, 4, 4 of 256 channels, and its first
    convolution has the first level's width. Here that width is `channels`, so the multiples are
    twice as large, and noise features and embedding have the widths that belong to 256.

    Source: Dhariwal & Nichol 2021, arXiv:2105.05233, section 3 and appendix I.
    """
    return adm(
        512,
        num_classes,
        channels=128,
        channel_mult=(1, 2, 2, 4, 4, 8, 8),
        num_res_blocks=2,
        noise_features=Sinusoidal(cos_first=True, shift=0.0, channels=256),
        emb_channels=1024,
    )


def adm_classifier(image_size: int, num_classes: int, **settings: Any) -> UNetClassifierConfig:
    """What all classifiers of the paper have in common; settings change it."""
    common: dict[str, Any] = dict(out_channels=None, channels=128, num_res_blocks=2)
    return UNetClassifierConfig(adm(image_size, None, **common | settings), num_classes)


def adm_classifier_imagenet64(num_classes: int = 1000) -> UNetClassifierConfig:
    """ADM's classifier of noisy 64x64 images: 65,438,568 parameters.

    Source: Dhariwal & Nichol 2021, arXiv:2105.05233, section 4 and appendix I.
    """
    return adm_classifier(64, num_classes, channel_mult=(1, 2, 3, 4), num_res_blocks=4)


def adm_classifier_imagenet128(num_classes: int = 1000) -> UNetClassifierConfig:
    """ADM's classifier of noisy 128x128 images: 42,568,040 parameters.

    Source: Dhariwal & Nichol 2021, arXiv:2105.05233, section 4 and appendix I.
    """
    return adm_classifier(128, num_classes, channel_mult=(1, 1, 2, 3, 4))


def adm_classifier_imagenet256(num_classes: int = 1000) -> UNetClassifierConfig:
    """ADM's classifier of noisy 256x256 images: 54,096,360 parameters.

    Source: Dhariwal & Nichol 2021, arXiv:2105.05233, section 4 and appendix I.
    """
    return adm_classifier(256, num_classes, channel_mult=(1, 1, 2, 2, 4, 4))


def adm_classifier_imagenet512(num_classes: int = 1000) -> UNetClassifierConfig:
    """ADM's classifier of noisy 512x512 images: 54,448,360 parameters.

    Widths as in `adm_imagenet512`, of 128 channels.

    Source: Dhariwal & Nichol 2021, arXiv:2105.05233, section 4 and appendix I.
    """
    return adm_classifier(
        512,
        num_classes,
        channels=64,
        channel_mult=(1, 2, 2, 4, 4, 8, 8),
        noise_features=Sinusoidal(cos_first=True, shift=0.0, channels=128),
        emb_channels=512,
    )
