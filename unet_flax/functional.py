"""A Flax module as a pure function and a plain nested dict of arrays."""

from collections.abc import Callable
from typing import Any

import jax
from flax import nnx
from jaxtyping import Array

Params = dict[str, Any]
Network = Callable[..., Array]


def functional(module: nnx.Module) -> tuple[Network, Params]:
    """Splits a module into a pure function and its parameters, a plain nested dict of arrays.

    `network(params, *args, **kwargs)` equals `module(*args, **kwargs)` for the module's own
    parameters. Plain dicts cost `jax.jit` nothing per call, where an NNX module costs
    milliseconds of Python. All keys are strings, as jax.export and file formats want them.

    Constants, such as Fourier frequencies, are among the parameters; their gradient is zero, and
    weight decay must leave them alone, for example by decaying only what has two axes or more.

    Returns:
      (network, params); params share the module's arrays.
    Raises:
      ValueError: the module keeps running statistics, which no pure function can.
    """
    graph, state = nnx.split(module)
    if jax.tree.leaves(nnx.state(module, nnx.BatchStat)):
        raise ValueError(
            f"{type(module).__name__} keeps running statistics (batch normalisation); train it as "
            "an nnx module, or split them off by nnx.split(module, nnx.Param, nnx.BatchStat)."
        )

    def network(params: Params, *args, **kwargs) -> Array:
        return nnx.merge(graph, _keyed(params, _list_index))(*args, **kwargs)

    return network, _keyed(nnx.to_pure_dict(state), str)


def _keyed(node: Any, rename: Callable[[Any], Any]) -> Any:
    if not isinstance(node, dict):
        return node
    return {rename(key): _keyed(child, rename) for key, child in node.items()}


def _list_index(key: str) -> str | int:
    return int(key) if key.isdecimal() else key
