"""Predictor-corrector sampling: at each sigma Langevin steps before the step to the next."""

from dataclasses import dataclass, field

import jax
import jax.numpy as jnp

from diffusion.ranges import demand
from diffusion.sampling.euler import Euler
from diffusion.sampling.loop import BaseSampler


@dataclass(frozen=True)
class PredictorCorrector(BaseSampler):
    """Corrects x by Langevin dynamics at its sigma, then steps down by ancestral sampling.

    corrector: x + step score + sqrt(2 step) z,  step = 2 (snr sigma)^2,  score = (D - x) / sigma^2
    predictor: `Euler` with eta = 1, and D itself on the step to sigma = 0

    Attributes:
      snr: signal-to-noise ratio of a Langevin step, in (0, 1).
      num_corrections: Langevin steps at each sigma, >= 0.
    Source: Song et al. 2021, arXiv:2011.13456, Algorithms 2 and 4. Deviations: the step size is
      2 (snr |z| / |score|)^2 there, with norms over the batch; here |z| / |score| is sigma, its
      value for images of many pixels, so that no image depends on the others. Their predictor for
      VE adds noise of sqrt(sigma^2 - sigma_next^2), as their ReverseDiffusionPredictor; this one is
      their AncestralSamplingPredictor. All is in units of x_0 + sigma eps, for VP networks too.
      nfe = (num_corrections + 1) num_steps - num_corrections.
    """

    snr: float = 0.16
    num_corrections: int = field(default=1, metadata={"static": True})
    order = 1

    def __post_init__(self):
        demand("(0, 1)", snr=self.snr)
        demand("[0, inf)", num_corrections=self.num_corrections)
        if not isinstance(self.num_corrections, int):
            raise ValueError(f"num_corrections={self.num_corrections} must be a whole number.")

    @property
    def stages(self) -> int:
        return self.num_corrections + 1

    @property
    def num_noises(self) -> int:
        return self.num_corrections + 1

    @property
    def is_deterministic(self) -> bool:
        return False

    def step(self, denoise, x, memory, at):
        sigma = at.sigma

        def corrected():
            x_corrected = x
            for part in range(1, self.num_corrections + 1):
                D = denoise(x_corrected, sigma)
                size = 2 * self.snr**2  # in units of sigma^2
                noise = sigma * jnp.sqrt(2 * size) * at.noise(x, part)
                x_corrected = x_corrected + size * (D - x_corrected) + noise
            return x_corrected

        x = jax.lax.cond(at.sigma_next > 0, corrected, lambda: x)
        return Euler(eta=1.0).step(denoise, x, memory, at)
