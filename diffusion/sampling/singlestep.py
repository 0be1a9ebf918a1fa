"""DPM-Solver++ singlestep on the grid's own points: groups of steps share their start."""

from dataclasses import dataclass, field

import jax.numpy as jnp

from diffusion.ranges import demand
from diffusion.sampling.dpm import moments
from diffusion.sampling.loop import BaseSampler
from diffusion.sampling.step_context import interpolate, log_ratio


@dataclass(frozen=True)
class DPMSolverSinglestep(BaseSampler):
    """DPM-Solver++ 2S and 3S whose inner points are points of the grid, as in diffusers.

    Each group of `order` steps starts from one x: the first is of order 1; the second, again from
    the start, is of order 2 by the estimates at the start and in the middle; and so on. The last
    step, to sigma = 0, returns D itself.

    Attributes:
      order: 2 or 3, the number of steps in a group.
      max_ratio: a step of a group that is more than this many times as long in ln(sigma) as the one
        before it is taken from x with order 1; > 0, infinite for the published method.
      weights: "heun", a polynomial through all estimates, or "midpoint", which leaves out the
        second one of 3S and takes 1/2 in 2S; diffusers' solver_type.

    The order is reached where the steps make up whole groups; that of 3S with weights="midpoint"
    only where a group's inner points are at 1/3 and 2/3 of it.

    Source: Lu et al. 2022, arXiv:2211.01095, Algorithm 1; grouping as diffusers'
      DPMSolverSinglestepScheduler. nfe = num_steps.
    """

    order: int = field(default=2, metadata={"static": True})
    max_ratio: float = 2.0
    weights: str = field(default="heun", metadata={"static": True})

    def __post_init__(self):
        if self.weights not in ("midpoint", "heun"):
            raise ValueError(f"weights={self.weights!r} is neither 'midpoint' nor 'heun'.")
        if self.order not in (2, 3):
            raise ValueError(f"order={self.order} of DPMSolverSinglestep is neither 2 nor 3.")
        demand("(0, inf]", max_ratio=self.max_ratio)

    def init(self, x_T):
        # x at the group's start, and the estimates of the group so far, the oldest first
        return (jnp.zeros_like(x_T),) * self.order

    def step(self, denoise, x, memory, at):
        place = at.step % self.order
        D = denoise(x, at.sigma)
        x_start, *estimates = memory
        x_start = jnp.where(place == 0, x, x_start)
        estimates = [jnp.where(place == i, D, E) for i, E in enumerate(estimates)]
        start = at.sigmas[at.step - place]
        q, p = at.sigma_next / start, (start - at.sigma_next) / start
        h = log_ratio(start, at.sigma_next)

        def share(steps: int):
            """Length of the group's first steps, in units of h; 1 where they are not taken yet."""
            sigma = at.sigmas[at.step - place + steps]
            return jnp.where(place >= steps, log_ratio(start, sigma) / h, 1.0)

        x_next = interpolate(x, D, at.q, at.p)
        trusted = at.trusted_order(2, self.max_ratio) == 2
        mean, mean_square = moments(h)
        line = mean if self.weights == "heun" else 0.5
        second = estimates[0] + line * (D - estimates[0]) / share(1)
        x_next = jnp.where((place == 1) & trusted, interpolate(x_start, second, q, p), x_next)
        if self.order == 3:
            r_1, r_2 = share(1), share(2)
            slope_1, slope_2 = (estimates[1] - estimates[0]) / r_1, (D - estimates[0]) / r_2
            gap = jnp.where(place == 2, r_2 - r_1, 1.0)
            slope, curvature = (r_2 * slope_1 - r_1 * slope_2) / gap, 2 * (slope_2 - slope_1) / gap
            third = estimates[0] + mean * slope + mean_square / 2 * curvature
            if self.weights == "midpoint":
                third = estimates[0] + mean * slope_2
            x_next = jnp.where((place == 2) & trusted, interpolate(x_start, third, q, p), x_next)
        return x_next, (x_start, *estimates)
