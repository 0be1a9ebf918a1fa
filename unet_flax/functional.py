"""A Flax module as a pure function and a plain nested dict of arrays."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array

Params = dict[str, Any]
Network = Callable[..., Array]


@dataclass(frozen=True, eq=False)
class Functional:
    """A module without its arrays: `network(params, *args, **kwargs)`.

    Equal modules give equal networks with equal hashes, so that a function of a network, such as
    jax.jit(network), is compiled once for all of them. It can be pickled where the module's classes
    can be imported.

    Attributes:
      graph: the module's structure, as nnx.split gives it.
    """

    graph: Any

    def __post_init__(self):
        # once: jax.jit asks at every call
        object.__setattr__(self, "_hash", hash(self.graph))

    def __hash__(self) -> int:
        return self._hash  # pyright: ignore[reportAttributeAccessIssue]

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return isinstance(other, Functional) and self.graph == other.graph

    def __reduce__(self) -> tuple[Any, ...]:
        return Functional, (self.graph,)  # the hash of a text differs between processes

    def __call__(self, params: Params, *args: Any, **kwargs: Any) -> Any:
        return nnx.merge(self.graph, _keyed(params, _list_index))(*args, **kwargs)


def functional(module: nnx.Module) -> tuple[Network, Params]:
    """Splits a module into a pure function and its parameters, a plain nested dict of arrays.

    `network(params, *args, **kwargs)` equals `module(*args, **kwargs)` for the module's own
    parameters. Plain dicts cost `jax.jit` nothing per call, where an NNX module costs
    milliseconds of Python. All keys are strings, as jax.export and file formats want them.
    `unet_flax.module(config, params)` makes a module of params again.

    Constants, such as Fourier frequencies, are among the parameters; their gradient is zero, and
    weight decay must leave them alone, for example by decaying only what has two axes or more.

    Returns:
      (network, params): a `Functional`, and params, which share the module's arrays.
    Raises:
      ValueError: the module keeps running statistics, which a pure function cannot.
    """
    graph, state = nnx.split(module)
    if jax.tree.leaves(nnx.state(module, nnx.BatchStat)):
        raise ValueError(
            f"{type(module).__name__} keeps running statistics (batch normalisation); train it as "
            "an nnx module, or split them off by nnx.split(module, nnx.Param, nnx.BatchStat)."
        )
    return Functional(graph), _keyed(nnx.to_pure_dict(state), str)


def with_params(module: nnx.Module, params: Params) -> nnx.Module:
    """A module of the same structure with these parameters, as `functional` gives them.

    Args:
      module: its arrays are not used; nnx.eval_shape makes one that holds none.
    Raises:
      ValueError: the parameters are not those of this structure; names at most ten.
    """
    network, own = functional(module)
    wanted, given = _shapes(own), _shapes(params)
    wrong = sorted(name for name in wanted.keys() | given if wanted.get(name) != given.get(name))
    if wrong:
        listed = [f"{n}: {given.get(n, 'missing')}, not {wanted.get(n, 'there')}" for n in wrong]
        raise ValueError(
            f"the parameters do not fit this network ({'; '.join(listed[:10])}"
            f"{'; ...' if len(wrong) > 10 else ''}); use those of a network of the same "
            "configuration."
        )
    params = jax.tree.map(jnp.asarray, params)  # of numpy too, as files are read
    return nnx.merge(network.graph, _keyed(params, _list_index))  # pyright: ignore


def _shapes(params: Params) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree.leaves_with_path(params)
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.shape(v) for path, v in leaves
    }


def _keyed(node: Any, rename: Callable[[Any], Any]) -> Any:
    if not isinstance(node, dict):
        return node
    return {rename(key): _keyed(child, rename) for key, child in node.items()}


def _list_index(key: str) -> str | int:
    return int(key) if key.isdecimal() else key
