"""The seam between data and training: what every dataset answers.

A `DatasetConfig` is what a recipe holds: plain numbers and paths, which say without touching the
disk what its images look like. `load()` makes the `Dataset`. Nothing outside this room knows where
the pixels lie.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Int

Spec = dict[str, jax.ShapeDtypeStruct]
"""Shape and type of one example's values by name, without the batch axis.

"image" is (H, W, C) float32 in [-1, 1], "label" () int32. All others are given to the network under
their own names, as "context" (L, D), "condition" (H, W, K) or "x_0_hat" (H, W, C).
"""


class Resident(NamedTuple):
    """A dataset that fits into a device's memory.

    Attributes:
      arrays: every example's values by name; "image" as uint8 pixels.
      indices: indices(seed, step) -> (B,), the examples that make up batch `step`.
    """

    arrays: dict[str, np.ndarray]
    indices: Callable[[int, int], Int[np.ndarray, "B"]]

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())


@runtime_checkable
class Dataset(Protocol):
    """Batches as a function of (seed, step) alone: not of workers, devices, hosts or restarts."""

    @property
    def batch_size(self) -> int: ...

    @property
    def spec(self) -> Spec: ...

    def __len__(self) -> int: ...

    def batch(self, seed: int, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """The rows of batch `step`, by the names in `spec`; all rows by default."""
        ...

    def resident(self) -> Resident | None:
        """The whole dataset in memory, or None where it is too large for that."""
        ...


@runtime_checkable
class DatasetConfig(Protocol):
    """What a recipe says of its data."""

    @property
    def batch_size(self) -> int: ...

    @property
    def spec(self) -> Spec:
        """As the dataset's, known without loading it."""
        ...

    @property
    def num_classes(self) -> int | None:
        """How many classes "label" has; None without labels."""
        ...

    def load(self) -> Dataset: ...


def image_spec(shape: tuple[int, ...], *, labelled: bool) -> Spec:
    """The spec of images (H, W, C), with or without labels."""
    spec = {"image": jax.ShapeDtypeStruct(shape, np.float32)}
    return spec | ({"label": jax.ShapeDtypeStruct((), np.int32)} if labelled else {})
