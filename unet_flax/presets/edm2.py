"""EDM2's networks for 64x64 images, by size.

The paper trains XS and XXL on latents of 512x512 images alone, which are 64x64 with 4 channels:
`dataclasses.replace(edm2_xxl(), in_channels=4)`.
"""

from unet_flax.edm2_config import EDM2Config


def _edm2(channels: int, num_classes: int | None, dropout: float = 0.0) -> EDM2Config:
    return EDM2Config(
        image_size=64,
        channels=channels,
        channel_mult=(1, 2, 3, 4),
        num_res_blocks=3,
        attention_resolutions=(16, 8),
        num_classes=num_classes,
        dropout=dropout,
    )


def edm2_xs(num_classes: int | None = 1000) -> EDM2Config:
    """EDM2-XS for 64x64 images: 124,710,821 parameters.

    Source: Karras et al. 2023, arXiv:2312.02696, table 6.
    """
    return _edm2(128, num_classes)


def edm2_s(num_classes: int | None = 1000) -> EDM2Config:
    """EDM2-S for 64x64 images: 280,209,253 parameters.

    Source: Karras et al. 2023, arXiv:2312.02696, table 6.
    """
    return _edm2(192, num_classes)


def edm2_m(num_classes: int | None = 1000) -> EDM2Config:
    """EDM2-M for 64x64 images: 497,803,045 parameters.

    Source: Karras et al. 2023, arXiv:2312.02696, table 6.
    """
    return _edm2(256, num_classes, dropout=0.1)


def edm2_l(num_classes: int | None = 1000) -> EDM2Config:
    """EDM2-L for 64x64 images: 777,492,197 parameters.

    Source: Karras et al. 2023, arXiv:2312.02696, table 6.
    """
    return _edm2(320, num_classes, dropout=0.1)


def edm2_xl(num_classes: int | None = 1000) -> EDM2Config:
    """EDM2-XL for 64x64 images: 1,119,276,709 parameters.

    Source: Karras et al. 2023, arXiv:2312.02696, table 6.
    """
    return _edm2(384, num_classes, dropout=0.1)


def edm2_xxl(num_classes: int | None = 1000) -> EDM2Config:
    """EDM2-XXL for 64x64 images: 1,523,156,581 parameters.

    Source: Karras et al. 2023, arXiv:2312.02696, table 6.
    """
    return _edm2(448, num_classes, dropout=0.1)


edm2_s_imagenet64 = edm2_s
"""The same function under its longer name."""
