"""The published networks, by name; each has exactly the published number of parameters."""

from unet_flax.presets.adm import (
    adm_classifier_imagenet64,
    adm_classifier_imagenet128,
    adm_classifier_imagenet256,
    adm_classifier_imagenet512,
    adm_imagenet64,
    adm_imagenet128,
    adm_imagenet256,
    adm_imagenet512,
)
from unet_flax.presets.autoencoder import (
    sd3_autoencoder,
    sd_autoencoder,
    sdxl_autoencoder,
)
from unet_flax.presets.ddpm import (
    ddpm_celebahq256,
    ddpm_cifar10,
    iddpm_cifar10,
    scoresde_ddpmpp_cifar10,
)
from unet_flax.presets.edm import (
    edm_ddpmpp_cifar10,
    edm_ffhq64_ddpmpp,
    edm_imagenet64_adm,
    edm_ncsnpp_cifar10,
)
from unet_flax.presets.edm2 import (
    edm2_l,
    edm2_m,
    edm2_s,
    edm2_s_imagenet64,
    edm2_xl,
    edm2_xs,
    edm2_xxl,
)

__all__ = [
    "adm_classifier_imagenet128",
    "adm_classifier_imagenet256",
    "adm_classifier_imagenet512",
    "adm_classifier_imagenet64",
    "adm_imagenet128",
    "adm_imagenet256",
    "adm_imagenet512",
    "adm_imagenet64",
    "ddpm_celebahq256",
    "ddpm_cifar10",
    "edm2_l",
    "edm2_m",
    "edm2_s",
    "edm2_s_imagenet64",
    "edm2_xl",
    "edm2_xs",
    "edm2_xxl",
    "edm_ddpmpp_cifar10",
    "edm_ffhq64_ddpmpp",
    "edm_imagenet64_adm",
    "edm_ncsnpp_cifar10",
    "iddpm_cifar10",
    "scoresde_ddpmpp_cifar10",
    "sd3_autoencoder",
    "sd_autoencoder",
    "sdxl_autoencoder",
]
