"""Each published network has exactly the published number of parameters."""

import math

import jax
import pytest
from flax import nnx

from unet_flax import EDM2UNet, UNet, UNetConfig, presets

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
    # Dhariwal & Nichol 2021, table 11: 296 M and 554 M
    (presets.adm_imagenet64(), 295_904_454),
    (presets.adm_imagenet256(), 553_838_086),
    # Karras et al. 2023, table 6: 280 M
    (presets.edm2_s_imagenet64(), 280_209_253),
]


@pytest.mark.parametrize(("config", "count"), COUNTS)
def test_parameter_count(config, count):
    kind = UNet if isinstance(config, UNetConfig) else EDM2UNet
    network = nnx.eval_shape(lambda: kind(config, rngs=nnx.Rngs(0)))
    parameters = nnx.state(network, nnx.Param)  # constants are no parameters
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(parameters)) == count


def test_every_preset_names_its_paper_and_its_count():
    functions = [f for name, f in vars(presets).items() if name[0] != "_" and callable(f)]
    named = [f for f in functions if f.__module__ == presets.__name__]
    assert len(named) >= 9
    for function in named:
        assert "arXiv:" in function.__doc__ and "parameters" in function.__doc__
