"""Each published network has exactly the published number of parameters."""

import math

import jax
import pytest
from flax import nnx

import unet_flax
from unet_flax import presets

COUNTS = [
    # Ho et al. 2020: 35.7 M and 114 M; to the parameter, diffusers' google/ddpm-cifar10-32 and
    # google/ddpm-celebahq-256
    (presets.ddpm_cifar10(), 35_746_307),
    (presets.ddpm_celebahq256(), 113_673_219),
    # Song et al. 2021: 61.8 M; to the parameter, the sum of the layers that appendix H lists
    (presets.scoresde_ddpmpp_cifar10(), 61_804_419),
    # Nichol & Dhariwal 2021: 52.5 M
    (presets.iddpm_cifar10(), 52_546_438),
    # Karras et al. 2022, table 7: 56 M; to the parameter, their published networks
    (presets.edm_ddpmpp_cifar10(), 55_733_891),
    (presets.edm_ddpmpp_cifar10(num_classes=10), 55_735_299),
    (presets.edm_ncsnpp_cifar10(), 56_397_827),
    (presets.edm_ffhq64_ddpmpp(), 61_805_571),
    (presets.edm_imagenet64_adm(), 295_899_267),  # 5,187 fewer than ADM's for 3 output channels
    # Dhariwal & Nichol 2021, table 11: 296 M, 422 M, 554 M and 559 M; to the parameter, their
    # published networks
    (presets.adm_imagenet64(), 295_904_454),
    (presets.adm_imagenet128(), 421_529_606),
    (presets.adm_imagenet256(), 553_838_086),
    (presets.adm_imagenet512(), 558_997_638),
    # the same, appendix I: classifiers of 65 M, 43 M, 54 M and 54 M; to the parameter, the sum of
    # the layers of the published code
    (presets.adm_classifier_imagenet64(), 65_438_568),
    (presets.adm_classifier_imagenet128(), 42_568_040),
    (presets.adm_classifier_imagenet256(), 54_096_360),
    (presets.adm_classifier_imagenet512(), 54_448_360),
    # Karras et al. 2023, tables 2 and 6: 125 M, 280 M, 498 M, 777 M, 1119 M and 1523 M
    (presets.edm2_xs(), 124_710_821),
    (presets.edm2_s(), 280_209_253),
    (presets.edm2_m(), 497_803_045),
    (presets.edm2_l(), 777_492_197),
    (presets.edm2_xl(), 1_119_276_709),
    (presets.edm2_xxl(), 1_523_156_581),
    # the autoencoders that Stable Diffusion's folders hold: diffusers' AutoencoderKL of their
    # configurations
    (presets.sd_autoencoder(), 83_653_863),
    (presets.sdxl_autoencoder(), 83_653_863),
    (presets.sd3_autoencoder(), 83_819_683),
]


# tracing a large network takes seconds: one of each kind here, the others with the slow tests
OFTEN = (35_746_307, 52_546_438, 55_733_891, 56_397_827, 295_904_454, 42_568_040, 280_209_253)


@pytest.mark.parametrize(
    ("config", "count"),
    [row if row[1] in OFTEN else pytest.param(*row, marks=pytest.mark.slow) for row in COUNTS],
)
def test_parameter_count(config, count):
    network = nnx.eval_shape(lambda: unet_flax.make(config, nnx.Rngs(0)))
    parameters = nnx.state(network, nnx.Param)  # constants are no parameters
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parameters)) == count


def test_every_preset_names_its_paper_and_its_count():
    counts = {config: f"{count:,} parameters" for config, count in COUNTS}
    for name in presets.__all__:
        function = getattr(presets, name)
        assert "arXiv:" in function.__doc__ and counts[function()] in function.__doc__
