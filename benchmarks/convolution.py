"""Winograd convolutions against XLA's: `python -m benchmarks.convolution`.

For each shape, prints the ratio of the forward times, `winograd` over XLA's, and at the end the
rounding errors of both. The thresholds in `winograd.is_faster` come from these ratios. Needs no
PyTorch.
"""

import argparse
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import unet_flax
from benchmarks import timing
from unet_flax import winograd

SHAPES = [
    (1, 16, 64, 64), (1, 16, 256, 256), (4, 16, 256, 256), (8, 16, 256, 256), (1, 16, 1024, 1024),
    (8, 16, 1024, 1024), (1, 32, 64, 64), (1, 32, 128, 128), (2, 32, 128, 128), (4, 32, 128, 128),
    (8, 32, 128, 128), (8, 32, 256, 128), (16, 32, 64, 64), (100, 32, 128, 128), (1, 64, 64, 64),
    (1, 64, 128, 128), (1, 256, 64, 64), (1, 256, 128, 128), (8, 32, 384, 128), (24, 32, 128, 128),
    (32, 32, 128, 128),
]  # fmt: skip
"""Batch size, image size, input channels, output channels."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=timing.count, default=9)
    rounds = parser.parse_args().rounds
    unet_flax.tune_cpu()
    methods = {"winograd": jax.jit(winograd.winograd), "plain": jax.jit(plain)}
    for shape in SHAPES:
        x, kernel = drawn(*shape)
        seconds = timing.alternate(
            {name: blocking(method, x, kernel) for name, method in methods.items()}, rounds
        )
        low, ratio, high = np.quantile(seconds["winograd"] / seconds["plain"], [0.25, 0.5, 0.75])
        chosen = winograd.is_faster(x, kernel, "cpu")
        print(
            f"{shape!s:22} plain {1e3 * np.median(seconds['plain']):8.2f} ms   "
            f"ratio {ratio:.2f} ({low:.2f} to {high:.2f}){'   chosen' if chosen else ''}",
            flush=True,
        )
    x, kernel = drawn(2, 32, 128, 128)
    with jax.enable_x64(True):
        exact = np.asarray(plain(x.astype(jnp.float64), kernel.astype(jnp.float64)))
    error = {
        name: np.std(np.asarray(method(x, kernel)) - exact) for name, method in methods.items()
    }
    print(
        f"rounding error of outputs with unit variance: winograd {error['winograd']:.1e}, "
        f"plain {error['plain']:.1e}"
    )


def plain(x: jax.Array, kernel: jax.Array) -> jax.Array:
    return jax.lax.conv_general_dilated(
        x, kernel, (1, 1), "SAME", dimension_numbers=winograd.LAYOUT
    )


def drawn(batch: int, size: int, channels: int, out_channels: int) -> tuple[jax.Array, jax.Array]:
    """Random images and a random kernel, whose convolution has unit variance."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((batch, size, size, channels), np.float32)
    kernel = rng.standard_normal((3, 3, channels, out_channels), np.float32)
    return jnp.asarray(x), jnp.asarray(kernel / np.sqrt(9 * channels, dtype=np.float32))


def blocking(method: Callable, *args: Any) -> Callable[[], Any]:
    return lambda: jax.block_until_ready(method(*args))


if __name__ == "__main__":
    main()
