"""Checksums of a tree of arrays: of its layout, and of all its bits.

The checksum of the bits does not depend on how the arrays are sharded over devices and hosts. It is
computed in NumPy, because a jitted sum would be compiled for each shape, which takes seconds.
"""

import itertools
import zlib
from typing import Any

import jax
import numpy as np

from diffusion.run import hosts


def layout(tree: Any) -> int:
    """CRC-32 over the names, shapes and types of all arrays (or jax.ShapeDtypeStructs)."""
    leaves = [
        (jax.tree_util.keystr(path), tuple(leaf.shape), str(leaf.dtype))
        for path, leaf in jax.tree.leaves_with_path(tree)
    ]
    return zlib.crc32(repr(leaves).encode())


def of_host(arrays: dict[str, np.ndarray]) -> int:
    """CRC-32 over the weighted sums of the arrays, sorted by name; this host holds all of each."""
    sums = [weighted_sum(arrays[name], [0] * arrays[name].ndim) for name in sorted(arrays)]
    return zlib.crc32(np.array(sums, np.uint32).tobytes())


def of_devices(tree: Any) -> int:
    """CRC-32 over the weighted sums of the tree's arrays, which may be sharded over hosts."""
    shards = [_shards(leaf) for leaf in jax.tree.leaves(tree)]
    for shard in itertools.chain.from_iterable(shards):
        shard.data.copy_to_host_async()
    of_this_host = [
        np.sum([weighted_sum(np.asarray(shard.data), _origin(shard)) for shard in some], dtype="u4")
        for some in shards
    ]
    return zlib.crc32(hosts.total(np.array(of_this_host, np.uint32)).tobytes())


def _shards(array: jax.Array) -> list[Any]:
    """The array's shards on this host, without replicas: over all hosts each shard occurs once."""
    return [shard for shard in array.addressable_shards if shard.replica_id == 0]


def _origin(shard: Any) -> list[int]:
    """Index of the shard's first element in the whole array, along each axis."""
    return [span.start or 0 for span in shard.index]


def weighted_sum(shard: np.ndarray, origin: list[int]) -> int:
    """Sum mod 2^32 of an array's numbers, read as unsigned integers, with odd weights by index.

    The weights are odd, so that changing any one bit changes the sum.

    Args:
      shard: a part of the array, or all of it.
      origin: index of the shard's first element in the array, along each axis.
    """
    size = min(shard.dtype.itemsize, 4)  # a number of 64 bits is read as two of 32
    bits = np.ascontiguousarray(shard).reshape(*shard.shape, 1).view(f"u{size}")
    bits = bits.astype("u4", copy=False)
    for axis in reversed(range(bits.ndim)):
        first = origin[axis] if axis < shard.ndim else 0
        place = np.arange(first, first + bits.shape[axis], dtype=np.uint32)
        place = (place + np.uint32(1 + axis)) * np.uint32(0x9E3779B1)
        bits = np.einsum("...i,i->...", bits, (place ^ (place >> 15)) | np.uint32(1))
    return int(bits)
