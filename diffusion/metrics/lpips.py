"""LPIPS v0.1, a perceptual distance between two images, by VGG16 or AlexNet.

Files, two in one dictionary (their names do not meet): of the network, torchvision's
vgg16-397923af.pth (528 MB) or alexnet-owt-7be5be79.pth (233 MB; both BSD-3-Clause); of the weights
of its channels, lpips/weights/v0.1/vgg.pth or alex.pth of github.com/richzhang/PerceptualSimilarity
(7 KB, BSD-2-Clause; also in the package lpips).

At five depths the activations of both images are scaled to unit length at every pixel; their
squared differences are weighed by channel, averaged over the pixels, and summed over the depths.
Images are in [-1, 1] and are not resized: the distance depends on the size, so state it.

Source: Zhang et al. 2018, arXiv:1801.03924, version 0.1 of the package lpips.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.metrics.layout import Params, Shape, as_float32, require_layout

FILE = "torchvision's vgg16 or alexnet, and vgg.pth or alex.pth of lpips v0.1, in one dictionary"
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
EPS = 1e-10
"""Keeps pixels without any activation from dividing by zero."""


class Conv(NamedTuple):
    """A convolution of `features.PLACE` with a ReLU.

    Attributes:
      pool: side of the windows whose maximum is taken before it, 2 apart, never padded; 0: none.
      is_compared: whether the distance sees its activations.
    """

    place: int
    channels: int
    is_compared: bool = True
    pool: int = 0
    kernel: int = 3
    stride: int = 1
    padding: int = 1


ALEXNET = (
    Conv(0, 64, kernel=11, stride=4, padding=2),
    Conv(3, 192, pool=3, kernel=5, padding=2),
    Conv(6, 384, pool=3),
    Conv(8, 256),
    Conv(10, 256),
)
VGG16 = (
    Conv(0, 64, is_compared=False),
    Conv(2, 64),
    Conv(5, 128, is_compared=False, pool=2),
    Conv(7, 128),
    Conv(10, 256, is_compared=False, pool=2),
    Conv(12, 256, is_compared=False),
    Conv(14, 256),
    Conv(17, 512, is_compared=False, pool=2),
    Conv(19, 512, is_compared=False),
    Conv(21, 512),
    Conv(24, 512, is_compared=False, pool=2),
    Conv(26, 512, is_compared=False),
    Conv(28, 512),
)
NETWORKS = {11: ("AlexNet", ALEXNET, 31), 3: ("VGG16", VGG16, 16)}
"""By the side of the first kernel: the network and the smallest side of an image for its pools."""


def check(params: Params) -> None:
    """Refuses weights of another network.

    Raises:
      ValueError: naming the first array that is missing or misshapen.
    """
    require_layout(params, _layout(params), FILE)


@jax.jit
def lpips(
    params: Params, a: Float[Array, "B H W 3"], b: Float[Array, "B H W 3"]
) -> Float[Array, "B"]:
    """The distances between images in [-1, 1], pair by pair.

    Raises:
      ValueError: the images are too small for the network.
    """
    name, network, min_size = NETWORKS[params["features.0.weight"].shape[-1]]
    _, H, W, _ = a.shape
    if min(H, W) < min_size:
        raise ValueError(
            f"images of {H}x{W} vanish in the pools of {name}; use {min_size}x{min_size} or larger."
        )
    with jax.default_matmul_precision("highest"):
        w = as_float32(params)
        distance = jnp.zeros(len(a), jnp.float32)
        pairs = zip(_directions(w, network, a), _directions(w, network, b), strict=True)
        for depth, (h, g) in enumerate(pairs):
            channels = w[f"lin{depth}.model.1.weight"].reshape(-1)
            distance = distance + (jnp.square(h - g) @ channels).mean((1, 2))
        return distance


def _directions(
    w: dict[str, Float[Array, "..."]], network: tuple[Conv, ...], image: Float[Array, "B H W 3"]
) -> Iterator[Float[Array, "B h w C"]]:
    """The activations that are compared, of unit length at every pixel."""
    h = image.astype(jnp.float32)
    h = (h - jnp.array([[[SHIFT]]], h.dtype)) / jnp.array([[[SCALE]]], h.dtype)
    for conv in network:
        if conv.pool:
            h = _max_pool(h, conv.pool)
        kernel, bias = (w[f"features.{conv.place}.{part}"] for part in ("weight", "bias"))
        h = jax.lax.conv_general_dilated(
            h,
            kernel,
            (conv.stride, conv.stride),
            [(conv.padding, conv.padding)] * 2,
            dimension_numbers=("NHWC", "OIHW", "NHWC"),
        )
        h = jax.nn.relu(h + bias[None, None, None])
        if conv.is_compared:
            yield h / (jnp.linalg.norm(h, axis=-1, keepdims=True) + EPS)


def _max_pool(x: Float[Array, "B H W C"], window: int) -> Float[Array, "B h w C"]:
    sides, strides = (1, window, window, 1), (1, 2, 2, 1)
    return jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, sides, strides, "VALID")


def _layout(params: Params) -> Iterator[tuple[str, Shape]]:
    yield "features.0.weight", (64, 3, None, None)
    side = params["features.0.weight"].shape[-1]
    _, network, _ = NETWORKS.get(side, NETWORKS[3])
    channels, depth = 3, 0
    for conv in network:
        yield f"features.{conv.place}.weight", (conv.channels, channels, conv.kernel, conv.kernel)
        yield f"features.{conv.place}.bias", (conv.channels,)
        channels = conv.channels
        if conv.is_compared:
            yield f"lin{depth}.model.1.weight", (1, channels, 1, 1)
            depth += 1
