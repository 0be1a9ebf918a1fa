"""Trees of arrays here, flat names and PyTorch's layout in the files."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Path = tuple[Any, ...]


def leaves(tree: dict[Any, Any], path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """(path, array) of every array of a nested dict."""
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from leaves(value, (*path, key))
        else:
            yield (*path, key), value


def fill(
    shapes: dict[Any, Any],
    weights: dict[str, jax.Array],
    name_of: Callable[[Path], str],
    to_torch: Callable[[Path, Any], Any],
) -> dict[Any, Any]:
    """The tree of shapes with the weights in it.

    Args:
      shapes: nested dict of shapes and types; the weights are cast to these types.
      weights: by their names in the files, in PyTorch's layout.
      name_of: the name in the files of the array at a path.
      to_torch: an array of ours in PyTorch's layout.
    Raises:
      ValueError: weights are missing, unexpected or of another shape; names at most ten of each.
    """
    wanted = {name_of(path): (path, leaf) for path, leaf in leaves(shapes)}
    missing, unexpected = sorted(wanted.keys() - weights), sorted(weights.keys() - wanted)
    if missing or unexpected:
        raise ValueError(
            f"the weights do not fit config.json: {len(missing)} missing{_some(missing)}, "
            f"{len(unexpected)} unexpected{_some(unexpected)}."
        )
    misfits = []
    for name, (path, leaf) in wanted.items():
        shape, fitting = weights[name].shape, jax.eval_shape(partial(to_torch, path), leaf).shape
        # projections are convolutions of one pixel there, in old checkpoints matrices
        if shape != fitting and shape not in (fitting[:2], (*fitting, 1, 1)):
            misfits.append(f"{name} {shape}, not {fitting}")
    if misfits:
        raise ValueError(f"the weights do not fit config.json: {len(misfits)}{_some(misfits)}.")
    filled: dict[Any, Any] = {}
    for name, (path, leaf) in wanted.items():
        node = filled
        for key in path[:-1]:
            node = node.setdefault(key, {})
        # in numpy: JAX would compile a transpose for each shape
        array = from_torch(path, np.asarray(weights[name])).astype(leaf.dtype)
        node[path[-1]] = jnp.asarray(array)
    return filled


def current_names(weights: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Attention had other names in old checkpoints, such as google/ddpm-*.

    Raises:
      ValueError: a weight is there by both of its names.
    """
    current: dict[str, jax.Array] = {}
    for name, array in weights.items():
        new = _current_name(name)
        if new != name and new in weights:
            raise ValueError(
                f"the weights {name} and {new} are the old and the new name of one; leave one."
            )
        current[new] = array
    return current


def _current_name(name: str) -> str:
    old = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    owner, dot, kind = name.rpartition(".")
    rest, another_dot, layer = owner.rpartition(".")
    return f"{rest}{another_dot}{old.get(layer, layer)}{dot}{kind}"


def _some(names: list[str]) -> str:
    if not names:
        return ""
    return f" ({', '.join(names[:10])}{', ...' if len(names) > 10 else ''})"


def from_torch(path: Path, array: Any) -> Any:
    """Kernels from (O, I, H, W) to (H, W, I, O), from (O, I) to (I, O)."""
    if path[-1] != "kernel":
        return array
    if array.ndim == 4 and array.shape[2:] == (1, 1):
        array = array[:, :, 0, 0]
    return array.transpose((2, 3, 1, 0) if array.ndim == 4 else (1, 0))


def kernel_to_torch(array: Any) -> Any:
    """A kernel from (H, W, I, O) to (O, I, H, W), from (I, O) to (O, I)."""
    return array.transpose((3, 2, 0, 1) if array.ndim == 4 else (1, 0))
