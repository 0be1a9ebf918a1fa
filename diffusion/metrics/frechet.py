"""Frechet distance of two normal distributions, which is FID where the features are Inception's.

    d^2 = |mu_a - mu_b|^2 + tr(sigma_a) + tr(sigma_b) - 2 tr((sigma_a sigma_b)^(1/2))

Source: Dowson, Landau 1982; Heusel et al. 2017, arXiv:1706.08500, eq. 6.
"""

import numpy as np
from jaxtyping import Float
from scipy.linalg import get_lapack_funcs

from diffusion.metrics.statistics import FeatureStatistics, check_comparable


def frechet_distance(a: FeatureStatistics, b: FeatureStatistics) -> float:
    """Frechet distance (squared, as FID is) of the normal distributions of two sets of features.

    With sigma = A A^T, the eigenvalues of sigma_a sigma_b are the squares of the singular values of
    A_a^T A_b. So no root of a matrix is taken, no complex number arises, and covariances of fewer
    images than features lose no digits.

    Raises:
      ValueError: fewer than 2 images, features of two widths or of two protocols, a sigma with
        negative eigenvalues.
    Source: Heusel et al. 2017, arXiv:1706.08500. Deviation: none but rounding; the published code
      takes scipy.linalg.sqrtm and adds 1e-6 to the diagonal where that fails.
    """
    check_comparable(a, b)
    sigma_a, sigma_b = a.sigma, b.sigma
    shift = a.mu - b.mu
    product = _root(sigma_a).T @ _root(sigma_b)
    trace_of_root = np.linalg.svd(product, compute_uv=False).sum() if product.size else 0.0
    traces = np.trace(sigma_a) + np.trace(sigma_b)
    distance = float(shift @ shift + traces - 2 * trace_of_root)
    if distance < -1e-5 * traces:  # beyond the rounding of covariances kept in float32
        raise ValueError(
            f"the Frechet distance comes out as {distance:g}, because a sigma is no covariance: it "
            "has negative eigenvalues; compute the statistics from the images."
        )
    return max(distance, 0.0)


def _root(sigma: Float[np.ndarray, "D D"]) -> Float[np.ndarray, "D rank"]:
    """A matrix A of full rank with A A^T = sigma, by Cholesky's method with pivots.

    It ends where what is left differs from zero by rounding alone, by LAPACK's default tolerance.
    """
    if not sigma.any():
        return sigma[:, :0]
    (pivoted_cholesky,) = get_lapack_funcs(("pstrf",), (sigma,))
    factor, pivots, rank, _ = pivoted_cholesky(sigma, lower=1)
    root = np.zeros((len(sigma), rank))
    root[pivots - 1] = np.tril(factor)[:, :rank]
    return root
