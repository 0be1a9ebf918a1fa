"""Where sampling by diffusers' schedulers differs from sampling by recipes."""

import math
from dataclasses import dataclass

import diffusion as dm
from configs.recipe import Sampling


@dataclass(frozen=True)
class Conventions:
    """What diffusers' schedulers do in another way than recipes, whose way is the default.

    Attributes:
      starts_at_unit_variance: whether x_T / sqrt(1 + sigma^2) has variance 1, not x_T / sigma.
      ends_in_vp: whether the image is x / sqrt(1 + sigma^2) where the grid's last sigma is not 0.
      clip_bound: the bound of clipping.
      dynamic_share: share of the values that dynamic thresholding does not clip; None is no such
        thresholding, but clipping to the bound.
      dynamic_bound: the largest bound of dynamic thresholding.
      needs_equal_steps: whether timesteps must lie num_timesteps // num_steps apart, because each
        step goes that far.
      needs_even_steps: whether that distance must be even.
      sampler: the class of sampler that needs it.
    """

    starts_at_unit_variance: bool = False
    ends_in_vp: bool = False
    clip_bound: float = 1.0
    dynamic_share: float | None = None
    dynamic_bound: float = math.inf
    needs_equal_steps: bool = False
    needs_even_steps: bool = False
    sampler: type | None = None

    def check(self, sampling: Sampling) -> None:
        """Raises a ValueError for a number of steps at which diffusers walks another grid."""
        grid, n = sampling.grid, sampling.num_steps
        if not isinstance(grid, dm.VPTimesteps) or type(sampling.sampler) is not self.sampler:
            return  # samplers of another class step to the grid's own timesteps
        T = grid.chain.num_timesteps
        is_equal = (
            n == T or grid.spacing == "leading" or (grid.spacing == "trailing" and T % n == 0)
        )
        if self.needs_equal_steps and not is_equal:
            raise ValueError(
                f"{n} steps of spacing {grid.spacing!r} on {T} timesteps: diffusers' scheduler "
                f"steps to timesteps {T // n} lower, which this spacing does not visit; use "
                f"--spacing leading, trailing with a divisor of {T}, or --num-steps {T}."
            )
        if self.needs_even_steps and T // n % 2:
            raise ValueError(
                f"{n} steps: the Runge-Kutta steps of diffusers' PNDM need an even distance "
                f"between timesteps, not {T // n}; use {T // (2 * max(1, T // (2 * n)))} steps."
            )

    def clip(self, denoise: dm.Denoise) -> dm.Denoise:
        """The denoiser with its estimates clipped."""
        if self.dynamic_share is None:
            return dm.clip(denoise, self.clip_bound)
        return dm.clip_dynamically(denoise, self.dynamic_share, self.dynamic_bound)
