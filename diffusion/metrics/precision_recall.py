"""Precision, recall, density and coverage: quality and variety of images, each by itself.

The real images' manifold is the union of balls around their features, each with the distance to the
k-th nearest other real image as radius; that of the generated images likewise.

Source: Kynkaanniemi et al. 2019, arXiv:1904.06991; Naeem et al. 2020, arXiv:2002.09797.
"""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from diffusion.metrics.features import as_pair, check_counts, squared_distances


class PrecisionRecall(NamedTuple):
    """Shares, each in [0, 1].

    Attributes:
      precision: generated images that lie in the manifold of the real ones.
      recall: real images that lie in the manifold of the generated ones.
    """

    precision: float
    recall: float


class DensityCoverage(NamedTuple):
    """
    Attributes:
      density: balls of real images that a generated image lies in, over k; >= 0, may exceed 1.
      coverage: share of real images whose ball holds a generated image, in [0, 1].
    """

    density: float
    coverage: float


def precision_recall(
    generated: Float[Any, "N D"], real: Float[Any, "M D"], *, k: int = 3, block: int = 2000
) -> PrecisionRecall:
    """Improved precision and recall.

    Both depend on N and M: compare numbers of equal counts only (the paper has 50,000 of each).

    Args:
      generated: features of N > k images.
      real: features of M > k images.
      k: which neighbour gives the radius, >= 1.
      block: side of the blocks of distances that lie in memory at once, >= 1.
    Raises:
      ValueError: k images or fewer, features of two widths, or not finite.
    Source: Kynkaanniemi et al. 2019, arXiv:1904.06991, eq. 1 and 2, whose features are VGG16's.
    """
    x, y = _checked(generated, real, k, block, at_least=k + 1)
    radii_x, radii_y = _radii(x, k, block), _radii(y, k, block)
    is_precise, is_recalled = np.zeros(len(x), bool), np.zeros(len(y), bool)
    for rows, columns, squared in squared_distances(x, y, block):
        is_precise[rows] |= (squared <= radii_y[None, columns]).any(1)
        is_recalled[columns] |= (squared <= radii_x[rows, None]).any(0)
    return PrecisionRecall(float(is_precise.mean()), float(is_recalled.mean()))


def density_coverage(
    generated: Float[Any, "N D"], real: Float[Any, "M D"], *, k: int = 5, block: int = 2000
) -> DensityCoverage:
    """Density and coverage, which outliers among the images change little.

    Args and Raises: as `precision_recall`; generated may be of any N >= 1.
    Source: Naeem et al. 2020, arXiv:2002.09797, eq. 5 and 6. Deviation: a ball holds its border, as
      above; the published code leaves it out, which differs where images are equal.
    """
    x, y = _checked(generated, real, k, block, at_least=1)
    radii = _radii(y, k, block)
    counts, is_covered = np.zeros(len(x), np.int64), np.zeros(len(y), bool)
    for rows, columns, squared in squared_distances(x, y, block):
        is_inside = squared <= radii[None, columns]
        counts[rows] += is_inside.sum(1)
        is_covered[columns] |= is_inside.any(0)
    return DensityCoverage(float(counts.mean() / k), float(is_covered.mean()))


def _checked(generated: Any, real: Any, k: int, block: int, at_least: int) -> Any:
    check_counts(1, k=k, block=block)
    x, y = as_pair(generated, real, 1)
    for name, features, least in (("generated", x, at_least), ("real", y, k + 1)):
        if len(features) < least:
            raise ValueError(f"{name} has {len(features)} images, and k={k} takes {least} or more.")
    return x, y


def _radii(x: Float[np.ndarray, "N D"], k: int, block: int) -> Float[np.ndarray, "N"]:
    """Squared distance of each vector to its k-th nearest other one."""
    nearest = np.full((len(x), k + 1), np.inf)  # itself is one of them
    for rows, _, squared in squared_distances(x, x, block):
        found = np.concatenate([nearest[rows], squared], axis=1)
        nearest[rows] = np.partition(found, k, axis=1)[:, : k + 1]
    return nearest.max(1)
