"""Packs a tree of many arrays into few: arrays of the same type and shape are stacked.

Orbax spends about a millisecond of Python on each array, however small, and a training state has
hundreds of small arrays: stacking makes a save ten times as fast. The stacks are made on the host,
so nothing is compiled.
"""

from typing import Any

import jax
import numpy as np

Stacks = dict[str, np.ndarray]


def pack(tree: Any) -> Stacks:
    """Stacks the arrays of each type and shape, in the tree's order.

    Args:
      tree: arrays, of which this host holds all shards.
    """
    arrays = jax.device_get(jax.tree.leaves(tree))
    return {
        name: np.stack([arrays[i] for i in indices]) for name, indices in _groups(arrays).items()
    }


def empty_stacks(tree: Any) -> Stacks:
    """Uninitialised stacks of the names, shapes and types that `pack` returns.

    Args:
      tree: arrays or jax.ShapeDtypeStructs.
    """
    leaves = jax.tree.leaves(tree)
    return {
        name: np.empty((len(indices), *leaves[indices[0]].shape), leaves[indices[0]].dtype)
        for name, indices in _groups(leaves).items()
    }


def unpack(stacks: Stacks, target: Any) -> Any:
    """Inverts `pack`, and puts the arrays on the devices.

    Args:
      target: the tree as jax.ShapeDtypeStructs, with the shardings of the result.
    """
    leaves, structure = jax.tree.flatten(target)
    arrays: list[Any] = [None] * len(leaves)
    for name, indices in _groups(leaves).items():
        for whole, i in zip(stacks[name], indices, strict=True):
            arrays[i] = jax.make_array_from_callback(
                leaves[i].shape, leaves[i].sharding, np.asarray(whole).__getitem__
            )
    return jax.tree.unflatten(structure, arrays)


def _groups(leaves: list[Any]) -> dict[str, list[int]]:
    """Indices of the leaves of each type and shape, by a name such as "float32_3x3x64x64"."""
    groups: dict[str, list[int]] = {}
    for i, leaf in enumerate(leaves):
        name = f"{leaf.dtype}_{'x'.join(map(str, leaf.shape)) or 'scalar'}"
        groups.setdefault(name, []).append(i)
    return groups
