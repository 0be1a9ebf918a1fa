"""3x3 convolutions with half the products, for forwards on a CPU, which wait for products.

Four neighbouring outputs of three taps take 12 products one by one. They are the coefficients of a
product of polynomials, which six products fix: its values at five points and at infinity. For the
taps g and six neighbouring values d of a row of the image

y = A^T ((G g) * (B^T d))

and down the columns the taps are summed as ever.

Source: Winograd 1980, Arithmetic Complexity of Computations; Lavin & Gray 2015, arXiv:1509.09308,
  who have tiles of both dimensions: fewer products, but more memory traffic, slower here.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Float

TILE = 4
"""Neighbouring outputs of a row that are computed together."""

POINTS = (0.0, 0.5, -0.5, 1.5, -1.5)
"""Where the polynomials are evaluated, besides infinity.

The rounding in float32 is then 1.5 to 2.1 times the plain convolution's, by the customary
0, 1, -1, 2, -2 a third more.
"""

LAYOUT = ("NHWC", "HWIO", "NHWC")


def convolve(x: Array, kernel: Array, strides: Any, padding: Any, **settings: Any) -> Array:
    """lax.conv_general_dilated of NHWC and HWIO arrays, to NHWC, by the faster of two ways.

    The numbers are the same but for rounding. The default backend at tracing decides.
    """
    is_plain = tuple(strides) == (1, 1) and padding == "SAME" and _says_no_more(settings)
    if is_plain and is_faster(x, kernel, jax.default_backend()):
        return winograd(x, kernel, settings.get("precision"))
    return lax.conv_general_dilated(x, kernel, strides, padding, **settings)


def _says_no_more(settings: dict[str, Any]) -> bool:
    """Whether there is no dilation, no group of channels, nor anything else but a precision."""
    named = {"precision", "dimension_numbers"}
    others = [value for name, value in settings.items() if name not in named]
    return all(value in (None, 1, (1, 1)) for value in others)


def is_faster(x: Any, kernel: Any, backend: str) -> bool:
    """Whether `winograd` can compute this convolution, and is measured to be faster there.

    By `python -m benchmarks.convolution`: with fewer channels the additions cost what the products
    save, with fewer pixels those on the kernel do, and of images beyond 12 MiB caches hold neither
    the parts nor the products. Measured under `tune_cpu`; without it the gain is between none and
    0.6 of the time. Sizes that are symbols, as in jax.export, say nothing.
    """
    if backend != "cpu" or x.dtype != jnp.float32 or kernel.dtype != jnp.float32:
        return False
    if kernel.shape[:-2] != (3, 3) or not all(isinstance(size, int) for size in x.shape):
        return False
    B, H, W, C = x.shape
    channels = C, kernel.shape[-1]
    fits = W >= 16 and W % TILE == 0 and min(channels) >= 64
    return fits and B * H * W >= 2 * max(channels) and B * H * W * C <= 3 * 2**20


@partial(jax.custom_jvp, nondiff_argnums=(2,))
def winograd(
    x: Float[Array, "B H W C"], kernel: Float[Array, "3 3 C K"], precision: Any = None
) -> Float[Array, "B H W K"]:
    """The convolution of stride 1 that keeps the images' size, W a multiple of `TILE`.

    Where it is differentiated all is the plain convolution's, the value too: a gradient that needs
    x in memory, and transposes kernels, loses what the products save.
    """
    return _by_tiles(x, kernel, precision)


@partial(winograd.defjvp, symbolic_zeros=True)
def _derivative(precision: Any, primals: Any, tangents: Any) -> tuple[Array, Array]:
    x, kernel = primals
    dx, dkernel = tangents
    terms = []
    if not isinstance(dx, SymbolicZero):
        terms.append(_plain(dx, kernel, precision))
    if not isinstance(dkernel, SymbolicZero):
        terms.append(_plain(x, dkernel, precision))
    return _plain(x, kernel, precision), sum(terms[1:], terms[0])


def _plain(x: Array, kernel: Array, precision: Any, pad_width: int = 1) -> Array:
    padding = ((1, 1), (pad_width, pad_width))
    return lax.conv_general_dilated(
        x, kernel, (1, 1), padding, dimension_numbers=LAYOUT, precision=precision
    )


@partial(jax.jit, static_argnums=2)  # traced once for all convolutions of one shape
def _by_tiles(x: Array, kernel: Array, precision: Any) -> Array:
    B, H, W, _ = x.shape
    padded = jnp.pad(x, ((0, 0), (0, 0), (1, 1), (0, 0)))
    values = [lax.slice_in_dim(padded, k, k + W - TILE + 1, TILE, 2) for k in range(TILE + 2)]
    taps = [kernel[:, k, None] for k in range(3)]
    products = [
        _plain(_combined(for_values, values), _combined(for_taps, taps), precision, pad_width=0)
        for for_values, for_taps in zip(B_T, G, strict=True)
    ]
    y = jnp.stack([_combined(weights, products) for weights in A_T], 3)  # (B, H, W / 4, 4, K)
    return y.reshape(B, H, W, kernel.shape[-1])


def _combined(weights: np.ndarray, parts: list[Array]) -> Array:
    terms = [float(weight) * part for weight, part in zip(weights, parts, strict=True) if weight]
    return sum(terms[1:], terms[0])


def transforms(points: tuple[float, ...]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A^T, G and B^T of Toom and Cook for three taps, float64; outputs one fewer than points.

    A row of G, a column of A^T, evaluates a polynomial at a point, or is its highest coefficient
    for infinity; a row of B^T has the coefficients of the polynomial that is zero at all others.
    """
    at = np.array(points)
    A_T, G = np.zeros((len(at) - 1, len(at) + 1)), np.zeros((len(at) + 1, 3))
    B_T = np.zeros((len(at) + 1, len(at) + 1))
    for j, point in enumerate(points):
        others = np.delete(at, j)
        A_T[:, j] = point ** np.arange(len(A_T))
        G[j] = point ** np.arange(3) / np.prod(point - others)
        B_T[j, :-1] = np.poly(others)[::-1]
    A_T[-1, -1] = G[-1, -1] = 1
    B_T[-1] = np.poly(at)[::-1]
    return A_T, G, B_T


A_T, G, B_T = transforms(POINTS)
