"""A tree of many arrays as few: those of one type and shape are stacked.

To write an array costs Orbax about a millisecond of Python, however small it is, and a training
state is hundreds of small arrays: stacked, a save takes a tenth of the time. The stacks are made on
the host, so nothing is compiled.
"""

from typing import Any

import jax
import numpy as np

Stacks = dict[str, np.ndarray]


def pack(tree: Any) -> Stacks:
    """Stacks of all arrays of one type and shape, in the tree's order.

    Args:
      tree: of arrays that this host holds whole.
    """
    arrays = jax.device_get(jax.tree.leaves(tree))
    return {
        name: np.stack([arrays[i] for i in indices]) for name, indices in _groups(arrays).items()
    }


def empty_stacks(tree: Any) -> Stacks:
    """What `pack` gives, with nothing in it yet.

    Args:
      tree: of arrays or jax.ShapeDtypeStructs.
    """
    leaves = jax.tree.leaves(tree)
    return {
        name: np.empty((len(indices), *leaves[indices[0]].shape), leaves[indices[0]].dtype)
        for name, indices in _groups(leaves).items()
    }


def unpack(stacks: Stacks, target: Any) -> Any:
    """The tree that was packed, on the devices.

    Args:
      target: the tree as jax.ShapeDtypeStructs with the shardings that it shall have.
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
    """Which leaves share a type and a shape, by a name such as "float32_3x3x64x64"."""
    groups: dict[str, list[int]] = {}
    for i, leaf in enumerate(leaves):
        name = f"{leaf.dtype}_{'x'.join(map(str, leaf.shape)) or 'scalar'}"
        groups.setdefault(name, []).append(i)
    return groups
