"""The interface between data and training, which every dataset implements.

A recipe holds a `DatasetConfig`: numbers and paths, with the shapes of the examples, which are
known without reading the disk. Its `load()` returns the `Dataset`. No code outside `diffusion.data`
depends on how the pixels are stored.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import jax
import numpy as np
from jaxtyping import Int

Spec = dict[str, jax.ShapeDtypeStruct]
"""Shape and type of one example's arrays by name, without the batch axis.

"image" is (H, W, C) float32 in [-1, 1], "label" () int32. All others are passed to the network by
keyword, such as "text" (L,), "context" (L, D), "condition" (H, W, K) or "x_0_hat" (H, W, C).
"""


class InMemory(NamedTuple):
    """A whole dataset as arrays in memory, which may be copied to the devices.

    Attributes:
      arrays: the values of all examples by name; images as uint8 pixels, see `as_images`.
      indices: `indices(seed, step) -> (B,)`, the examples of batch `step`.
    """

    arrays: dict[str, np.ndarray]
    indices: Callable[[int, int], Int[np.ndarray, "B"]]

    @property
    def num_bytes(self) -> int:
        return sum(array.nbytes for array in self.arrays.values())


@runtime_checkable
class Dataset(Protocol):
    """Batches are functions of (seed, step): devices, hosts and restarts do not change them.

    A dataset may have `num_workers`: the number of processes in which its batches are prepared,
    which must be able to receive it. Without it, or at 0, a thread prepares them. A dataset with
    texts has `texts`, see `diffusion.data.text.texts`.
    """

    @property
    def batch_size(self) -> int: ...

    @property
    def spec(self) -> Spec: ...

    def __len__(self) -> int: ...

    def batch(self, seed: int, step: int, rows: slice = slice(None)) -> dict[str, np.ndarray]:
        """Some rows of batch `step`, by the names in `spec`; all rows by default."""
        ...

    def resident(self) -> InMemory | None:
        """The whole dataset as arrays, or None if it does not fit into the host's memory."""
        ...

    def checksum(self) -> int:
        """32 bits that change with any example and with their order.

        A run resumes only on data of the same checksum.
        """
        ...


@runtime_checkable
class DatasetConfig(Protocol):
    """The configuration of a dataset, as a recipe states it.

    It may have `held_out`, the configuration of further examples that training does not see,
    `class_names`, the name of each class, by which sample.py's --label takes classes, and `text`,
    how texts are read, with `vocab_size`, the number of different tokens.
    """

    @property
    def batch_size(self) -> int: ...

    @property
    def spec(self) -> Spec:
        """The dataset's `spec`, known without loading it."""
        ...

    @property
    def num_classes(self) -> int | None:
        """Number of classes of "label"; None without labels."""
        ...

    def load(self) -> Dataset: ...


def image_spec(shape: tuple[int, ...], *, labelled: bool) -> Spec:
    """The spec of images (H, W, C), with or without labels."""
    spec = {"image": jax.ShapeDtypeStruct(shape, np.float32)}
    return spec | ({"label": jax.ShapeDtypeStruct((), np.int32)} if labelled else {})
