"""Operations that keep unit size: weights are normalised, sums and concatenations are weighted.

Source: Karras et al. 2023, arXiv:2312.02696, section 2 and appendix B (configuration G).
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from unet_flax import winograd
from unet_flax.noise_features import Constant


def unit(x: Array, axis: int | tuple[int, ...] = -1, eps: float = 1e-4) -> Array:
    """Brings x to unit mean square over the axes, in float32; eps guards against zero vectors."""
    mean_square = jnp.square(x.astype(jnp.float32)).mean(axis, keepdims=True)
    return (x / (jnp.sqrt(mean_square) + eps)).astype(x.dtype)


def mp_silu(x: Array) -> Array:
    """SiLU, divided by its root mean square for unit normal input."""
    return nnx.silu(x) / 0.596


def mp_sum(a: Array, b: Array, balance: float) -> Array:
    """(1 - balance) a + balance b, at unit variance where both are independent and have it."""
    return ((1 - balance) * a + balance * b) / math.hypot(1 - balance, balance)


def mp_concat(a: Array, b: Array, balance: float) -> Array:
    """Lays channels side by side so that both contribute by their share, not by their number."""
    size_a, size_b = a.shape[-1], b.shape[-1]
    scale = math.sqrt(size_a + size_b) / math.hypot(1 - balance, balance)
    weight_a, weight_b = (1 - balance) / math.sqrt(size_a), balance / math.sqrt(size_b)
    return jnp.concatenate([scale * weight_a * a, scale * weight_b * b], axis=-1)


class MPConv(nnx.Module):
    """A convolution without bias whose output channels have weights of unit size.

    Args:
      kernel_size: 3, or 1 for a matrix product on the last axis.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, rngs: nnx.Rngs):
        shape = (kernel_size,) * (2 * (kernel_size > 1)) + (in_channels, out_channels)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), shape, jnp.float32))

    def __call__(self, x: Float[Array, "B ... C"], gain: Array | float = 1.0) -> Array:
        kernel = self.kernel[...]
        inputs = tuple(range(kernel.ndim - 1))
        fan_in = math.prod(kernel.shape[:-1])
        kernel = (unit(kernel, inputs) * (gain / math.sqrt(fan_in))).astype(x.dtype)
        if kernel.ndim == 2:
            return x @ kernel
        return winograd.convolve(x, kernel, (1, 1), "SAME", dimension_numbers=winograd.LAYOUT)


def unit_kernels(params: Any) -> Any:
    """Forced weight normalisation: every kernel brought back to unit size; the rest untouched.

    Args:
      params: of an EDM2UNet, as `functional` gives them.
    Raises:
      ValueError: there is no kernel in them.
    Source: arXiv:2312.02696, section 2.3.
    """

    def is_kernel(path: tuple) -> bool:
        return getattr(path[-1], "key", None) == "kernel"

    if not any(is_kernel(path) for path, _ in jax.tree.leaves_with_path(params)):
        raise ValueError("no kernel among these parameters; give what `functional` gives.")
    return jax.tree.map_with_path(
        lambda path, leaf: unit(leaf, tuple(range(leaf.ndim - 1))) if is_kernel(path) else leaf,
        params,
    )


class MPFourier(nnx.Module):
    """sqrt(2) cos(2 pi (w c_noise + phase)), of unit variance; w and phase drawn once."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.frequencies = Constant(jax.random.normal(rngs.params(), (channels,), jnp.float32))
        self.phases = Constant(jax.random.uniform(rngs.params(), (channels,), jnp.float32))

    def __call__(self, c_noise: Float[Array, "B"]) -> Float[Array, "B F"]:
        frequencies, phases = self.frequencies[...][None, :], self.phases[...][None, :]
        turns = c_noise.astype(jnp.float32)[:, None] * frequencies + phases
        return jax.lax.stop_gradient(jnp.cos(2 * jnp.pi * turns) * math.sqrt(2.0))
