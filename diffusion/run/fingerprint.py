"""What a tree of arrays is told by: its layout, and a sum over all its bits.

The sum is the same however arrays are cut among devices and hosts, and in NumPy, for compiling one
for each shape of a network takes seconds.
"""

import itertools
import zlib
from typing import Any

import jax
import numpy as np

from diffusion.run import hosts


def layout(tree: Any) -> int:
    """CRC-32 over names, shapes and types of all arrays, or jax.ShapeDtypeStructs."""
    leaves = [
        (jax.tree_util.keystr(path), tuple(leaf.shape), str(leaf.dtype))
        for path, leaf in jax.tree.leaves_with_path(tree)
    ]
    return zlib.crc32(repr(leaves).encode())


def of_host(arrays: dict[str, np.ndarray]) -> int:
    """CRC-32 over a sum for each of the arrays, by name; this host holds them whole."""
    sums = [weighted_sum(arrays[name], [0] * arrays[name].ndim) for name in sorted(arrays)]
    return zlib.crc32(np.array(sums, np.uint32).tobytes())


def of_devices(tree: Any) -> int:
    """CRC-32 over a sum for each array, in turn; the arrays may be cut among hosts."""
    parts = [_parts(leaf) for leaf in jax.tree.leaves(tree)]
    for part in itertools.chain.from_iterable(parts):
        part.data.copy_to_host_async()
    here = [
        np.sum([weighted_sum(np.asarray(part.data), _origin(part)) for part in some], dtype="u4")
        for some in parts
    ]
    return zlib.crc32(hosts.total(np.array(here, np.uint32)).tobytes())


def _parts(array: jax.Array) -> list[Any]:
    """The parts of an array that this host holds, each part once over all hosts."""
    return [part for part in array.addressable_shards if part.replica_id == 0]


def _origin(part: Any) -> list[int]:
    """Where the part begins in the whole array, along each axis."""
    return [span.start or 0 for span in part.index]


def weighted_sum(part: np.ndarray, origin: list[int]) -> int:
    """Sum of an array's bits, each number times an odd one that depends on its place, mod 2^32.

    Odd, so that no single changed bit can leave the sum as it is.

    Args:
      part: of the array, which begins at `origin`.
    """
    size = min(part.dtype.itemsize, 4)  # numbers of 64 bits are two of 32
    bits = np.ascontiguousarray(part).reshape(*part.shape, 1).view(f"u{size}")
    bits = bits.astype("u4", copy=False)
    for axis in reversed(range(bits.ndim)):
        first = origin[axis] if axis < part.ndim else 0
        place = np.arange(first, first + bits.shape[axis], dtype=np.uint32)
        place = (place + np.uint32(1 + axis)) * np.uint32(0x9E3779B1)
        bits = np.einsum("...i,i->...", bits, (place ^ (place >> 15)) | np.uint32(1))
    return int(bits)
