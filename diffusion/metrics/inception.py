"""The Inception network of FID, as a function of a dictionary of arrays.

It is the graph `inception-2015-12-05` of TensorFlow, not torchvision's Inception v3: average pools
that do not count their padding, a max pool in the last block, 1,008 classes. The arrays have the
names of `pt_inception-2015-12-05-6726825d.pth`, also `weights-inception-2015-12-05-6726825d.pth`.

Source: Szegedy et al. 2015, arXiv:1512.00567; Heusel et al. 2017, arXiv:1706.08500; deviations from
the paper as in torch-fidelity 0.4.0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from diffusion.metrics.layout import require_layout

FILE = "weights-inception-2015-12-05-6726825d.pth"
PROTOCOL = "inception-2015-12-05 pool3"
"""What statistics of `inception`'s features are marked with."""

SIZE = 299
WIDTH, CLASSES = 2048, 1008
EPS = 1e-3
Params = Mapping[str, Any]
Shapes = dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class Conv:
    """Convolution without bias, batch normalisation with its running statistics, ReLU."""

    name: str
    channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    padding: str = "SAME"

    def shapes(self, prefix: str, channels: int) -> tuple[Shapes, int]:
        norm = {
            f"{prefix}{self.name}.bn.{part}": (self.channels,)
            for part in ("weight", "bias", "running_mean", "running_var")
        }
        kernel = {f"{prefix}{self.name}.conv.weight": (self.channels, channels, *self.kernel)}
        return kernel | norm, self.channels

    def __call__(self, params: Params, prefix: str, x: Array) -> Array:
        weight, gain, bias, mean, variance = (
            jnp.asarray(params[f"{prefix}{self.name}.{part}"], jnp.float32)
            for part in ("conv.weight", "bn.weight", "bn.bias", "bn.running_mean", "bn.running_var")
        )
        scale = gain * jax.lax.rsqrt(variance + EPS)
        h = jax.lax.conv_general_dilated(
            x,
            weight.transpose(2, 3, 1, 0),
            (self.stride, self.stride),
            self.padding,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
            precision=jax.lax.Precision.HIGHEST,  # a GPU's TF32 moves FID in the third digit
        )
        shift = bias - mean * scale
        return jax.nn.relu(h * scale[None, None, None, :] + shift[None, None, None, :])


@dataclass(frozen=True)
class MaxPool:
    """The largest of 3x3 values; padding counts for none."""

    stride: int
    padding: str

    def shapes(self, prefix: str, channels: int) -> tuple[Shapes, int]:
        return {}, channels

    def __call__(self, params: Params, prefix: str, x: Array) -> Array:
        return jax.lax.reduce_window(
            x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, self.stride, self.stride, 1), self.padding
        )


@dataclass(frozen=True)
class AveragePool:
    """The mean of 3x3 values, without those of the padding."""

    def shapes(self, prefix: str, channels: int) -> tuple[Shapes, int]:
        return {}, channels

    def __call__(self, params: Params, prefix: str, x: Array) -> Array:
        def window_sum(values: Array) -> Array:
            ones = (1, 1, 1, 1)
            return jax.lax.reduce_window(values, 0.0, jax.lax.add, (1, 3, 3, 1), ones, "SAME")

        return window_sum(x) / window_sum(jnp.ones((1, *x.shape[1:3], 1), x.dtype))


@dataclass(frozen=True)
class Branches:
    """Paths from the same input, whose outputs are concatenated in order."""

    name: str
    paths: tuple[tuple[Any, ...], ...]

    def shapes(self, prefix: str, channels: int) -> tuple[Shapes, int]:
        found = [_shapes(path, prefix + self.name, channels) for path in self.paths]
        return {k: v for shapes, _ in found for k, v in shapes.items()}, sum(c for _, c in found)

    def __call__(self, params: Params, prefix: str, x: Array) -> Array:
        outputs = [_apply(path, params, prefix + self.name, x) for path in self.paths]
        return jnp.concatenate(outputs, axis=-1)


def _shapes(steps: tuple[Any, ...], prefix: str, channels: int) -> tuple[Shapes, int]:
    shapes: Shapes = {}
    for step in steps:
        more, channels = step.shapes(prefix, channels)
        shapes |= more
    return shapes, channels


def _apply(steps: tuple[Any, ...], params: Params, prefix: str, x: Array) -> Array:
    for step in steps:
        x = step(params, prefix, x)
    return x


def _block_a(name: str, pool_channels: int) -> Branches:
    return Branches(f"{name}.", (
        (Conv("branch1x1", 64),),
        (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))),
        (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)),
         Conv("branch3x3dbl_3", 96, (3, 3))),
        (AveragePool(), Conv("branch_pool", pool_channels)),
    ))  # fmt: skip


def _block_b(name: str) -> Branches:
    return Branches(f"{name}.", (
        (Conv("branch3x3", 384, (3, 3), 2, "VALID"),),
        (Conv("branch3x3dbl_1", 64), Conv("branch3x3dbl_2", 96, (3, 3)),
         Conv("branch3x3dbl_3", 96, (3, 3), 2, "VALID")),
        (MaxPool(2, "VALID"),),
    ))  # fmt: skip


def _block_c(name: str, channels: int) -> Branches:
    row, column = (1, 7), (7, 1)
    return Branches(f"{name}.", (
        (Conv("branch1x1", 192),),
        (Conv("branch7x7_1", channels), Conv("branch7x7_2", channels, row),
         Conv("branch7x7_3", 192, column)),
        (Conv("branch7x7dbl_1", channels), Conv("branch7x7dbl_2", channels, column),
         Conv("branch7x7dbl_3", channels, row), Conv("branch7x7dbl_4", channels, column),
         Conv("branch7x7dbl_5", 192, row)),
        (AveragePool(), Conv("branch_pool", 192)),
    ))  # fmt: skip


def _block_d(name: str) -> Branches:
    return Branches(f"{name}.", (
        (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), 2, "VALID")),
        (Conv("branch7x7x3_1", 192), Conv("branch7x7x3_2", 192, (1, 7)),
         Conv("branch7x7x3_3", 192, (7, 1)), Conv("branch7x7x3_4", 192, (3, 3), 2, "VALID")),
        (MaxPool(2, "VALID"),),
    ))  # fmt: skip


def _block_e(name: str, pool: AveragePool | MaxPool) -> Branches:
    def fork(branch: str) -> Branches:
        row, column = Conv(f"{branch}a", 384, (1, 3)), Conv(f"{branch}b", 384, (3, 1))
        return Branches("", ((row,), (column,)))

    return Branches(f"{name}.", (
        (Conv("branch1x1", 320),),
        (Conv("branch3x3_1", 384), fork("branch3x3_2")),
        (Conv("branch3x3dbl_1", 448), Conv("branch3x3dbl_2", 384, (3, 3)),
         fork("branch3x3dbl_3")),
        (pool, Conv("branch_pool", 192)),
    ))  # fmt: skip


NETWORK = (
    Conv("Conv2d_1a_3x3", 32, (3, 3), 2, "VALID"),
    Conv("Conv2d_2a_3x3", 32, (3, 3), 1, "VALID"),
    Conv("Conv2d_2b_3x3", 64, (3, 3)),
    MaxPool(2, "VALID"),
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, (3, 3), 1, "VALID"),
    MaxPool(2, "VALID"),
    _block_a("Mixed_5b", 32),
    _block_a("Mixed_5c", 64),
    _block_a("Mixed_5d", 64),
    _block_b("Mixed_6a"),
    _block_c("Mixed_6b", 128),
    _block_c("Mixed_6c", 160),
    _block_c("Mixed_6d", 160),
    _block_c("Mixed_6e", 192),
    _block_d("Mixed_7a"),
    _block_e("Mixed_7b", AveragePool()),
    _block_e("Mixed_7c", MaxPool(1, "SAME")),  # an error of the graph that all FIDs share
)


def shapes() -> Shapes:
    """Shape of each array that `inception` reads, by its name in the published file."""
    found, channels = _shapes(NETWORK, "", 3)
    assert channels == WIDTH
    return found | {"fc.weight": (CLASSES, WIDTH), "fc.bias": (CLASSES,)}


def check(params: Params) -> None:
    """Raises a ValueError that names the first array that is missing or has another shape."""
    require_layout(params, shapes().items(), f"{FILE}, not torchvision's")


def inception(
    params: Params, pixels: UInt8[Any, "B H W C"]
) -> tuple[Float[Array, "B 2048"], Float[Array, "B 1008"]]:
    """Features and logits of images of any size.

    Args:
      params: arrays by the names of the published file; `check` says whether they are complete.
      pixels: grey (C = 1, repeated) or RGB (C = 3).
    Returns: the last pool's features (FID, KID, precision), and logits without the bias (Inception
      score).
    Raises:
      ValueError: pixels that are not uint8, or of other channels.
    """
    features = _apply(NETWORK, params, "", as_input(pixels)).mean((1, 2))
    weight = jnp.asarray(params["fc.weight"], jnp.float32)
    return features, jnp.matmul(features, weight.T, precision=jax.lax.Precision.HIGHEST)


def as_input(pixels: UInt8[Any, "B H W C"]) -> Float[Array, "B 299 299 3"]:
    """What the network's first layer sees, in [-1, 1).

    Raises:
      ValueError: pixels that are not uint8, or of other channels than 1 or 3.
    """
    if pixels.dtype != np.uint8 or pixels.shape[-1] not in (1, 3):
        raise ValueError(
            f"pixels of type {pixels.dtype} with {pixels.shape[-1]} channels must be uint8, 0 .. "
            "255, grey (1) or RGB (3); diffusion.pixels.to_pixels rounds images to them."
        )
    x = jnp.broadcast_to(jnp.asarray(pixels), (*pixels.shape[:-1], 3)).astype(jnp.float32)
    return (resize(x, SIZE, SIZE) - 128) / 128


def resize(x: Float[Array, "B H W C"], height: int, width: int) -> Float[Array, "B height width C"]:
    """Bilinear resizing of TensorFlow 1: output i lies at i * H / height, without antialiasing.

    The first pixels coincide, the images' centres do not: jax.image.resize and Pillow, which align
    centres, give another FID.
    """
    low, high, share = _places(x.shape[2], width)
    left, right = x[:, :, low], x[:, :, high]
    x = left + (right - left) * share[None, None, :, None]
    low, high, share = _places(x.shape[1], height)
    top, bottom = x[:, low], x[:, high]
    return top + (bottom - top) * share[None, :, None, None]


def _places(size: int, new_size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels on both sides of each new one, and the share of the second."""
    place = np.arange(new_size, dtype=np.float32) * np.float32(size / new_size)
    low = place.astype(np.int32)
    return low, np.minimum(low + 1, size - 1), place - low.astype(np.float32)
