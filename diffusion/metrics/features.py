"""Feature vectors, one an image: how they are checked, and the distances between them."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Float


def as_features(name: str, features: Any, width: int | None = None) -> Float[np.ndarray, "N D"]:
    """Feature vectors as a float64 array.

    Raises:
      ValueError: not of shape (N, D) with the width D, or not finite.
    """
    x = np.asarray(features, np.float64)
    if x.ndim != 2 or 0 in x.shape[1:]:
        raise ValueError(f"{name} of shape {x.shape} must be of shape (images, width).")
    if width is not None and x.shape[1] != width:
        raise ValueError(
            f"{name} of width {x.shape[1]} must have width {width}; take both from the same "
            "network."
        )
    if not np.isfinite(x).all():
        raise ValueError(f"{name} must be finite; {int((~np.isfinite(x)).any(1).sum())} are not.")
    return x


def check_counts(at_least: int, **counts: Any) -> None:
    """Raises a ValueError for the first value that is no integer of `at_least` or more."""
    for name, value in counts.items():
        if not isinstance(value, int | np.integer) or value < at_least:
            raise ValueError(f"{name}={value} must be an integer of {at_least} or more.")


def as_pair(
    generated: Any, real: Any, at_least: int
) -> tuple[Float[np.ndarray, "N D"], Float[np.ndarray, "M D"]]:
    """Two sets of feature vectors of one width.

    Raises:
      ValueError: of two widths, not finite, or fewer than `at_least`.
    """
    x = as_features("generated", generated)
    y = as_features("real", real, x.shape[1])
    for name, features in (("generated", x), ("real", y)):
        if len(features) < at_least:
            raise ValueError(f"{name} has {len(features)} images, and {at_least} are needed.")
    return x, y


def squared_distances(
    x: Float[np.ndarray, "N D"], y: Float[np.ndarray, "M D"], block: int
) -> Iterator[tuple[slice, slice, Float[np.ndarray, "n m"]]]:
    """|x_i - y_j|^2 in blocks, with the rows i and the columns j of each, one row of blocks after
    another.

    What is below the rounding of the features, which are float32 where they come from a network, is
    0, so that equal vectors have the distance 0.
    """
    mean = y.mean(0)  # distances do not change, and their rounding gets smaller
    for i in range(0, len(x), block):
        rows = slice(i, min(i + block, len(x)))
        x_block = x[rows] - mean
        x_squared = np.square(x_block).sum(1)[:, None]
        for j in range(0, len(y), block):
            columns = slice(j, min(j + block, len(y)))
            y_block = y[columns] - mean
            scale = x_squared + np.square(y_block).sum(1)[None, :]
            squared = scale - 2 * (x_block @ y_block.T)
            squared[squared < 1e-12 * scale] = 0
            yield rows, columns, squared
