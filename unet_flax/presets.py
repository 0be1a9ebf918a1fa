"""The published networks, by name."""

from unet_flax.unet import UNetConfig


def ddpm_cifar10() -> UNetConfig:
    """The U-Net of DDPM for 32x32 images: 35,746,307 parameters.

    Source: Ho et al. 2020, arXiv:2006.11239, section 4 and appendix B.
    """
    return UNetConfig(
        image_size=32,
        in_channels=3,
        channels=128,
        channel_mult=(1, 2, 2, 2),
        num_res_blocks=2,
        attention_resolutions=(16,),
        num_heads=1,
        num_groups=32,
        norm_eps=1e-6,
        dropout=0.1,
    )
