"""DPM-Solver++: the estimate is a polynomial in lambda = -ln(sigma).

With h the step in lambda and q = sigma_next / sigma = exp(-h), the probability-flow ODE in
x_t = x_0 + sigma * eps has the solution

x_next = q x + sigma_next * integral of exp(lambda) D d lambda

which is exact where the estimate D is a polynomial in lambda; the samplers differ in the
polynomial. The last step, to sigma = 0, returns D itself, so no noise is left.

Source: Lu et al. 2022, "DPM-Solver++", arXiv:2211.01095; in these terms Karras et al. 2022.
"""

from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.ranges import demand
from diffusion.sampling.loop import BaseSampler
from diffusion.sampling.phi import phi
from diffusion.sampling.step_context import StepContext, interpolate


@dataclass(frozen=True)
class DPMSolver2S(BaseSampler):
    """DPM-Solver++ 2S: second order by a second estimate in the middle of the step, in ln(sigma).

    Source: Lu et al. 2022, arXiv:2211.01095, Algorithm 1 with r = 1/2. nfe = 2 * num_steps - 1.
    """

    order = 2
    stages = 2

    def step(self, denoise, x, memory, at):
        D = denoise(x, at.sigma)
        q_middle = jnp.sqrt(at.q)

        def second_order() -> Array:
            x_middle = interpolate(x, D, q_middle, at.p / (1 + q_middle))
            D_middle = denoise(x_middle, q_middle * at.sigma)
            return interpolate(x, D_middle, at.q, at.p)

        return jax.lax.cond(at.sigma_next > 0, second_order, lambda: D), memory


@dataclass(frozen=True)
class DPMSolver(BaseSampler):
    """DPM-Solver++ 2M and 3M: the estimate is a line, or a parabola, in ln(sigma).

    Attributes:
      order: 2 or 3; order 1 is Euler (DDIM).
      max_ratio: a step in ln(sigma) that is more than this many times as long as the one before it
        is taken with a lower order, see `StepContext.trusted_order`; > 0, infinite for the
        published method.
      predicts: "x_0", DPM-Solver++, or "eps", DPM-Solver: what the line or parabola goes through.
      weights: of the line, "midpoint" (1/2) or "heun" (exact); diffusers' solver_type.
      halves_curvature: whether the third order has the published second derivative.
      lowers_final: whether in fewer than 15 steps the order falls to 2 and 1 on the last two, also
        where the grid ends above 0; diffusers' lower_order_final.
    Source: Lu et al. 2022, arXiv:2211.01095, Algorithm 2 and appendix B; "eps": Lu et al. 2022,
      arXiv:2206.00927, appendix D. nfe = num_steps.
      Deviations: in the published third-order step the second derivative of D is half of what it
      should be, which makes it second order; here it is whole. The published method has no
      max_ratio; without it, grids whose last steps are long give errors above Euler's.
    """

    order: int = field(default=2, metadata={"static": True})
    max_ratio: float = 2.0
    predicts: str = field(default="x_0", metadata={"static": True})
    weights: str = field(default="midpoint", metadata={"static": True})
    halves_curvature: bool = field(default=False, metadata={"static": True})
    lowers_final: bool = field(default=False, metadata={"static": True})

    def __post_init__(self):
        if self.weights not in ("midpoint", "heun"):
            raise ValueError(f"weights={self.weights!r} is neither 'midpoint' nor 'heun'.")
        if self.order not in (2, 3):
            raise ValueError(f"order={self.order} of DPMSolver is neither 2 nor 3.")
        if self.predicts not in ("x_0", "eps"):
            raise ValueError(f"predicts={self.predicts!r} of DPMSolver is neither 'x_0' nor 'eps'.")
        demand("(0, inf]", max_ratio=self.max_ratio)

    def init(self, x_T):
        return (jnp.zeros_like(x_T),) * (self.order - 1)  # the latest estimates, newest first

    def step(self, denoise, x, memory, at):
        D = denoise(x, at.sigma)
        first, second = moments(at.h)
        if self.predicts == "eps":
            latest, unit = (x - D) / at.sigma, -at.sigma  # a change of eps, as one of D
            first, second = 1 - first, 1 - 2 * first + second
        else:
            latest, unit = D, 1.0
        order = at.trusted_order(self.order, self.max_ratio)
        if self.lowers_final:
            order = jnp.where(at.num_steps < 15, jnp.minimum(order, at.num_steps - at.step), order)
        line = 0.5 if self.weights == "midpoint" else first
        second = second / 2 if self.halves_curvature else second
        change = polynomial_change(latest, memory, at, order, (line, first, second))
        return interpolate(x, D + unit * change, at.q, at.p), (latest, *memory)[:-1]


def moments(h: Array) -> tuple[Array, Array]:
    """Means of u and u^2 over a step, u from 0 to 1, with the weight exp(h u) of D."""
    p = -jnp.expm1(-h)
    return h * phi(2, h) / p, 2 * h * phi(3, h) / p


def polynomial_change(
    latest: Array,
    earlier: tuple[Array, ...],
    at: StepContext,
    order: Array,
    weights: tuple[Any, Any, Any],
) -> Array:
    """The weighted mean over the step of a polynomial in ln(sigma), less the latest value.

    The polynomial goes through the latest and the earlier values.

    Args:
      earlier: one value for a line, or two for a parabola, the newest first.
      order: how many values to use, the latest among them, from 1.
      weights: the mean of u at order 2, and the means of u and u^2 at order 3, u from 0 to 1.
    """
    h, (h_1, *older) = at.h, at.earlier_h(len(earlier))
    first = (latest - earlier[0]) * (h / h_1)
    change = jnp.where(order >= 2, weights[0] * first, 0.0)
    if older:
        (h_2,) = older
        second = (earlier[0] - earlier[1]) * (h / h_2)
        slope = first + h_1 / (h_1 + h_2) * (first - second)
        curvature = 2 * (first - second) * h / (h_1 + h_2)
        change = jnp.where(order == 3, weights[1] * slope + weights[2] / 2 * curvature, change)
    return change
