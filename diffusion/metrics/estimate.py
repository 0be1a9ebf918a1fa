"""A number with its spread over subsets."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Estimate(NamedTuple):
    """Mean and standard deviation (ddof = 0) over subsets of the images.

    The spread is of the subsets: it is no confidence interval for the images as a whole.
    """

    mean: float
    std: float

    @classmethod
    def over(cls, values: Sequence[float]) -> "Estimate":
        return cls(float(np.mean(values)), float(np.std(values)))
