"""Shardings for operations that jax cannot infer one for where a mesh has explicit axes."""

from typing import Any

import jax
from jax.sharding import NamedSharding, PartitionSpec
from jaxtyping import Array


def sharding_of(x: Array, rank: int) -> Any:
    """The sharding of x, for an array of another rank whose leading axes are those of x.

    Returns:
      None where no axis of x is sharded explicitly; jax then infers what it needs.
    """
    own = jax.typeof(x).sharding
    names = tuple(own.spec)[:rank]
    if not any(name is not None for name in names):
        return None
    return NamedSharding(own.mesh, PartitionSpec(*names, *[None] * (rank - len(names))))
