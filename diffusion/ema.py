"""Averages of the weights over training, which sample better than the last weights.

An average is `ema.init(params)` and `ema.update(average, params, step)`.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int


@dataclass(frozen=True)
class EMA:
    """Exponential moving average with warm-up.

    average = decay_n * average + (1 - decay_n) * params,  decay_n = min(decay, (1 + n) / (10 + n))

    The warm-up forgets the random initial weights, which a decay of 0.9999 would show for tens of
    thousands of steps.

    Attributes:
      decay: in [0, 1); 0.9999 averages over about the last 10,000 steps.
    Source: Ho et al. 2020, arXiv:2006.11239, appendix B (decay 0.9999); the warm-up is that of
      TensorFlow's ExponentialMovingAverage(num_updates).
    """

    decay: float = 0.9999

    def __post_init__(self):
        if not 0 <= self.decay < 1:
            raise ValueError(f"decay={self.decay} of the weights' average is outside [0, 1).")

    def init(self, params: Any) -> Any:
        return jax.tree.map(jnp.copy, params)  # params are donated to the step, so never shared

    def update(self, average: Any, params: Any, step: Int[Array, ""]) -> Any:
        """Takes the weights after optimiser step number `step` (from 0) into the average."""
        decay = jnp.minimum(self.decay, (1.0 + step) / (10.0 + step))
        return jax.tree.map(lambda a, p: a + (1 - decay) * (p - a), average, params)
