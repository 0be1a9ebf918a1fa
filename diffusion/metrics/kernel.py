"""Kernel distances of two sets of features: KID and CMMD.

With a kernel k, the squared maximum mean discrepancy is E k(x, x') + E k(y, y') - 2 E k(x, y).

Source: Gretton et al. 2012, JMLR 13, eq. 2 and 3.
"""

from typing import Any

import numpy as np
from jaxtyping import Float

from diffusion.metrics.estimate import Estimate
from diffusion.metrics.features import as_pair, check_counts, squared_distances
from diffusion.ranges import demand


def kernel_inception_distance(
    generated: Float[Any, "N D"],
    real: Float[Any, "M D"],
    *,
    num_subsets: int = 100,
    subset_size: int = 1000,
    seed: int = 2020,
) -> Estimate:
    """KID: the unbiased MMD^2 with the kernel (x . y / D + 1)^3, mean and spread over subsets.

    Unbiased, so that few images give the same value on average as many, and values slightly below 0
    are right where the sets agree. Papers often show it times 1,000.

    Args:
      generated: features of N >= subset_size images.
      real: features of M >= subset_size images.
      num_subsets: pairs of subsets, >= 1, each drawn without repetition.
      subset_size: images of each, >= 2.
      seed: of the subsets; torch-fidelity's is 2020.
    Raises:
      ValueError: fewer images than subset_size, features of two widths, or not finite.
    Source: Binkowski et al. 2018, arXiv:1801.01401, section 4; subsets as torch-fidelity 0.4.0
      draws them. Deviation: float64, where torch-fidelity computes in the type of the features.
    """
    check_counts(1, num_subsets=num_subsets)
    check_counts(2, subset_size=subset_size)
    x, y = as_pair(generated, real, subset_size)
    rng = np.random.RandomState(seed)  # torch-fidelity's
    values = []
    for _ in range(num_subsets):
        some_x = x[rng.choice(len(x), subset_size, replace=False)]
        some_y = y[rng.choice(len(y), subset_size, replace=False)]
        values.append(_unbiased_mmd(some_x, some_y))
    return Estimate.over(values)


def _unbiased_mmd(x: Float[np.ndarray, "n D"], y: Float[np.ndarray, "n D"]) -> float:
    def kernel(a: Float[np.ndarray, "n D"], b: Float[np.ndarray, "n D"]) -> Any:
        return (a @ b.T / a.shape[1] + 1) ** 3

    n = len(x)
    within = sum(k.sum() - np.trace(k) for k in (kernel(x, x), kernel(y, y))) / (n * (n - 1))
    return within - 2 * kernel(x, y).mean()


def cmmd(
    generated: Float[Any, "N D"],
    real: Float[Any, "M D"],
    *,
    sigma: float = 10.0,
    scale: float = 1000.0,
    block: int = 2000,
) -> float:
    """CMMD: the MMD^2 with the kernel exp(-|x - y|^2 / (2 sigma^2)), of embeddings of CLIP.

    The pairs of an image with itself count (a V-statistic, whose bias falls as 1 / N), as in
    the published code. N x M kernels never lie in memory at once.

    Args:
      generated: embeddings, which the caller has divided by their length.
      real: the same of real images.
      sigma: bandwidth of the kernel, > 0.
      scale: factor that makes the number readable, > 0.
      block: side of the blocks of kernels, >= 1.
    Raises:
      ValueError: no images, embeddings of two widths, or not finite.
    Source: Jayasumana et al. 2024, arXiv:2401.09603, and its published code.
    """
    demand("(0, inf)", sigma=sigma, scale=scale)
    check_counts(1, block=block)
    x, y = as_pair(generated, real, 1)

    def mean_kernel_less_one(a: Float[np.ndarray, "n D"], b: Float[np.ndarray, "m D"]) -> float:
        # the three means are close to 1, and their ones cancel
        blocks = squared_distances(a, b, block)
        total = sum(np.expm1(-squared / (2 * sigma**2)).sum() for _, _, squared in blocks)
        return total / (len(a) * len(b))

    within = mean_kernel_less_one(x, x) + mean_kernel_less_one(y, y)
    return float(scale * (within - 2 * mean_kernel_less_one(x, y)))
