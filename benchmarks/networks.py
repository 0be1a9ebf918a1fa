"""The networks that the benchmarks compare, here and in diffusers, with their batch sizes."""

import dataclasses
import os
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import torch
from diffusers import UNet2DModel
from flax import nnx

import unet_flax
from benchmarks import devices
from unet_flax import UNetConfig, presets
from unet_flax.diffusers.unet_config import to_diffusers


class Case(NamedTuple):
    """A network to compare.

    Attributes:
      config: our configuration.
      batch: batch size.
      theirs: arguments of diffusers' UNet2DModel.
      is_same: whether both are the same network; otherwise they are only similar.
    """

    config: UNetConfig
    batch: int
    theirs: dict[str, Any]
    is_same: bool


def _ddpm(channels: int, batch: int) -> Case:
    config = dataclasses.replace(presets.ddpm_cifar10(), channels=channels)
    return Case(config, batch, to_diffusers(config), is_same=True)


def _edm(batch: int) -> Case:
    """DDPM++, against a similar network of diffusers, which has no DDPM++.

    Theirs has the same widths, number of blocks and resampling, and attention at 16x16. It has 12 %
    more parameters.
    """
    config = presets.edm_ddpmpp_cifar10()
    config = dataclasses.replace(config, augment_channels=None)
    down, attending, up = "ResnetDownsampleBlock2D", "AttnDownBlock2D", "ResnetUpsampleBlock2D"
    theirs = dict(
        sample_size=32,
        block_out_channels=(256, 256, 256),
        layers_per_block=4,
        down_block_types=(down, attending, down),
        up_block_types=(up, "AttnUpBlock2D", up),
        downsample_type="resnet",
        upsample_type="resnet",
        attention_head_dim=None,
        dropout=config.dropout,
    )
    return Case(config, batch, theirs, is_same=False)


unet_flax.tune_cpu()  # as train.py and sample.py do
os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # leaves GPU memory to PyTorch

CASES: dict[str, Callable[[int | None], Case]] = {
    "channels32": lambda batch: _ddpm(32, batch or 32),
    "channels64": lambda batch: _ddpm(64, batch or 16),
    "ddpm": lambda batch: _ddpm(128, batch or 8),
    "edm": lambda batch: _edm(batch or 4),
}


def case(name: str, batch: int | None = None) -> Case:
    return CASES[name](batch)


def ours(config: UNetConfig, dtype: str) -> tuple[Callable, Any]:
    """The network as a function, and random weights, none of which are zero."""
    config = dataclasses.replace(config, dtype=dtype)
    network, shapes = unet_flax.functional(
        nnx.eval_shape(lambda: unet_flax.UNet(config, rngs=nnx.Rngs(0)))
    )
    rng = np.random.default_rng(0)

    def draw(leaf: Any) -> jax.Array:
        size = np.sqrt(np.prod(leaf.shape[:-1])) if leaf.ndim > 1 else 1
        return jnp.asarray(rng.standard_normal(leaf.shape, np.float32) / size, leaf.dtype)

    return network, jax.tree.map(draw, shapes)


def theirs(case: Case, *, channels_last: bool = False) -> torch.nn.Module:
    """diffusers' network, on the GPU if there is one."""
    torch.manual_seed(0)
    model: torch.nn.Module = UNet2DModel(**case.theirs)
    model.to(devices.torch_device())
    return model.to(memory_format=torch.channels_last) if channels_last else model


def images(case: Case, seed: int = 0) -> np.ndarray:
    """Unit noise, (B, H, W, C) float32."""
    size, channels = case.config.image_size, case.config.in_channels
    shape = (case.batch, size, size, channels)
    return np.random.default_rng(seed).standard_normal(shape, np.float32)


def num_parameters(case: Case) -> tuple[int, int]:
    """Our number of parameters and diffusers'; raises if they differ for the same network."""
    _, params = unet_flax.functional(
        nnx.eval_shape(lambda: unet_flax.UNet(case.config, rngs=nnx.Rngs(0)))
    )
    with torch.device("meta"):
        model = UNet2DModel(**case.theirs)
    ours = sum(leaf.size for leaf in jax.tree.leaves(params))
    theirs = sum(parameter.numel() for parameter in model.parameters())
    assert ours == theirs or not case.is_same, f"{ours:,} parameters, but {theirs:,} in diffusers"
    return ours, theirs
