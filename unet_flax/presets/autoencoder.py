"""Autoencoders of latent diffusion: Stable Diffusion 1 and 2, XL, 3."""

from unet_flax.autoencoder_config import AutoencoderConfig


def sd_autoencoder() -> AutoencoderConfig:
    """The autoencoder of Stable Diffusion 1 and 2, 4 channels: 83,653,863 parameters.

    Source: Rombach et al. 2022, arXiv:2112.10752, section 3.1 and appendix G (KL, f = 8).
    """
    return AutoencoderConfig(scaling_factor=0.18215)


def sdxl_autoencoder() -> AutoencoderConfig:
    """The autoencoder of Stable Diffusion XL, 4 channels: 83,653,863 parameters.

    Source: Podell et al. 2023, arXiv:2307.01952, section 2.4.
    """
    return AutoencoderConfig(scaling_factor=0.13025)


def sd3_autoencoder() -> AutoencoderConfig:
    """The autoencoder of Stable Diffusion 3, 16 channels: 83,819,683 parameters.

    FLUX.1's has the same shape, with scaling_factor 0.3611 and shift_factor 0.1159.

    Source: Esser et al. 2024, arXiv:2403.03206, section 5.2.1.
    """
    return AutoencoderConfig(
        latent_channels=16,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=1.5305,
        shift_factor=0.0609,
    )
