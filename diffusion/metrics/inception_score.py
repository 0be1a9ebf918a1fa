"""Inception score: how sure a classifier is of each image, and how evenly of all classes.

    IS = exp(E_x KL(p(y | x) || p(y)))

Source: Salimans et al. 2016, arXiv:1606.03498, section 4.
"""

from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.special import log_softmax

from diffusion.metrics.estimate import Estimate
from diffusion.metrics.features import as_features, check_counts


def inception_score(
    logits: Float[Any, "N classes"], *, num_splits: int = 10, seed: int | None = 2020
) -> Estimate:
    """Inception score, mean and spread over equal parts of the images.

    Between 1 and the number of classes. It sees no real images, and falls with the size of a part.

    Args:
      logits: of N >= num_splits images; the published protocol takes Inception's without bias.
      num_splits: parts, >= 1.
      seed: of the order of the images; None keeps theirs. torch-fidelity's is 2020.
    Raises:
      ValueError: fewer images than parts, or logits that are not finite.
    Source: Salimans et al. 2016, arXiv:1606.03498; order and parts as torch-fidelity 0.4.0.
    """
    check_counts(1, num_splits=num_splits)
    log_p = log_softmax(as_features("logits", logits), axis=1)
    n = len(log_p)
    if n < num_splits:
        raise ValueError(f"{n} images cannot be split in num_splits={num_splits}; use fewer.")
    if seed is not None:
        log_p = log_p[np.random.RandomState(seed).permutation(n)]  # torch-fidelity's
    values = []
    for i in range(num_splits):
        part = log_p[i * n // num_splits : (i + 1) * n // num_splits]
        p = np.exp(part)
        log_marginal = np.log(np.maximum(p.mean(0), np.finfo(np.float64).tiny))  # 0 ln 0 = 0
        values.append(float(np.exp((p * (part - log_marginal)).sum(1).mean())))
    return Estimate.over(values)
