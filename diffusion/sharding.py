"""The mesh of devices, and how arrays are sharded over it.

The batch is sharded over both axes, `data` and `fsdp`. Parameters, optimiser state and averages are
sharded over `fsdp`, so that each device holds 1 / fsdp of them. One device is a 1 x 1 mesh, with no
code of its own.
"""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec


@dataclass(frozen=True)
class Mesh:
    """The number of devices along each axis of the mesh.

    Attributes:
      data: devices that shard the batch only, >= 1; -1 for all devices, divided by fsdp.
      fsdp: devices over which the training state is sharded as well, >= 1.
    """

    data: int = -1
    fsdp: int = 1

    def make(self) -> jax.sharding.Mesh:
        """The mesh over the first data * fsdp devices.

        Raises:
          ValueError: there are too few devices, or fsdp does not divide their number.
        """
        devices = jax.device_count()
        if self.fsdp < 1 or (self.data < 1 and self.data != -1):
            raise ValueError(f"mesh data={self.data}, fsdp={self.fsdp}: use 1 or more, or data=-1.")
        data = devices // self.fsdp if self.data == -1 else self.data
        used = data * self.fsdp
        if used > devices or (self.data == -1 and used != devices):
            raise ValueError(
                f"mesh data={self.data}, fsdp={self.fsdp} does not fit the {devices} devices here; "
                f"data * fsdp must be at most {devices}, and if data is -1, fsdp must divide it."
            )
        if jax.process_count() > 1 and used != devices:
            raise ValueError(
                f"mesh data={self.data}, fsdp={self.fsdp} leaves some of the {devices} devices of "
                "all hosts unused; a run on several hosts must use all of them."
            )
        return jax.make_mesh(
            (data, self.fsdp),
            ("data", "fsdp"),
            axis_types=(AxisType.Auto,) * 2,  # Explicit, the default, rejects attention's reshapes
            devices=jax.devices()[:used],
        )


def check_batch_size(mesh: jax.sharding.Mesh, batch_size: int, accumulate: int = 1) -> None:
    """Raises a ValueError if the batch, or a part of it, cannot be split evenly over the devices.

    Args:
      accumulate: number of parts into which the batch is split, one computed after the other.
    """
    if accumulate > 1 and batch_size % (accumulate * mesh.size):
        raise ValueError(
            f"batch_size={batch_size} is not divisible by accumulate={accumulate} times the "
            f"{mesh.size} devices of the mesh."
        )
    if batch_size % mesh.size:
        raise ValueError(
            f"batch_size={batch_size} is not divisible by the {mesh.size} devices of the mesh."
        )


def shard_batch(mesh: jax.sharding.Mesh, batch: dict[str, np.ndarray]) -> dict[str, jax.Array]:
    """Puts a batch on the devices, sharded along its first axis."""
    return _put(batch, by_row(mesh))


def slices(mesh: jax.sharding.Mesh, batch_size: int) -> list[slice]:
    """The rows of a batch that each device of this host holds, in the order of the devices."""
    at = by_row(mesh).addressable_devices_indices_map((batch_size,))
    return [rows[0] for rows in at.values() if rows is not None]  # every device has rows


def put_slices(
    mesh: jax.sharding.Mesh, batch_size: int, parts: list[dict[str, np.ndarray]]
) -> dict[str, jax.Array]:
    """Puts a batch on the devices, sharded along its first axis.

    Args:
      batch_size: rows of the batch on all hosts.
      parts: the rows of `slices`.
    """
    sharding = by_row(mesh)
    devices = list(sharding.addressable_devices_indices_map((batch_size,)))

    def joined(name: str) -> jax.Array:
        shape = (batch_size, *parts[0][name].shape[1:])
        arrays = [jax.device_put(part[name], on) for part, on in zip(parts, devices, strict=True)]
        return jax.make_array_from_single_device_arrays(shape, sharding, arrays)

    return {name: joined(name) for name in parts[0]}


def by_row(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The sharding along the first axis, over all devices."""
    return NamedSharding(mesh, PartitionSpec(("data", "fsdp")))


def shard_indices(mesh: jax.sharding.Mesh, indices: np.ndarray) -> jax.Array:
    """Puts indices (steps, batch) on the devices, sharded along the batch."""
    return _put(indices, NamedSharding(mesh, PartitionSpec(None, ("data", "fsdp"))))


def on_every_device(mesh: jax.sharding.Mesh, arrays: Any) -> Any:
    """Replicates arrays on every device."""
    return _put(arrays, NamedSharding(mesh, PartitionSpec()))


def _put(arrays: Any, sharding: NamedSharding) -> Any:
    if jax.process_count() == 1:
        return jax.device_put(arrays, sharding)
    return jax.tree.map(
        lambda array: jax.make_array_from_callback(array.shape, sharding, lambda at: array[at]),
        arrays,
    )


def placed(mesh: jax.sharding.Mesh, state: Any) -> Any:
    """The shapes and shardings of a state: each array is sharded along its largest axis.

    Only axes that fsdp divides count. An array without such an axis is replicated.

    Args:
      state: arrays or jax.ShapeDtypeStructs.
    Returns:
      The state as jax.ShapeDtypeStructs with shardings.
    """
    fsdp = mesh.shape["fsdp"]

    def with_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
        divisible = [axis for axis, size in enumerate(leaf.shape) if size % fsdp == 0]
        if fsdp == 1 or not divisible:
            spec = PartitionSpec()
        else:
            largest = max(divisible, key=lambda axis: leaf.shape[axis])
            spec = PartitionSpec(*[None] * largest, "fsdp")
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))

    return jax.tree.map(with_sharding, state)


def place(mesh: jax.sharding.Mesh, state: Any) -> Any:
    """Puts a state on the mesh, with the shardings of `placed`."""
    return jax.device_put(state, jax.tree.map(lambda leaf: leaf.sharding, placed(mesh, state)))
