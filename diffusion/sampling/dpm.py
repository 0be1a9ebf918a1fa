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
    Source: Lu et al. 2022, arXiv:2211.01095, Algorithm 2 and appendix B. nfe = num_steps.
      Deviations: in the published third-order step the second derivative of D is half of what it
      should be, which makes it second order; here it is whole. The published method has no
      max_ratio; without it, grids whose last steps are long give errors above Euler's.
    """

    order: int = field(default=2, metadata={"static": True})
    max_ratio: float = 2.0

    def __post_init__(self):
        if self.order not in (2, 3):
            raise ValueError(f"order={self.order} of DPMSolver is neither 2 nor 3.")
        demand("(0, inf]", max_ratio=self.max_ratio)

    def init(self, x_T):
        return (jnp.zeros_like(x_T),) * (self.order - 1)  # the latest estimates, newest first

    def step(self, denoise, x, memory, at):
        D = denoise(x, at.sigma)
        polynomial = _line if self.order == 2 else _parabola
        estimate = polynomial(D, memory, at, self.max_ratio)
        return interpolate(x, estimate, at.q, at.p), (D, *memory)[:-1]


def _line(D: Array, earlier: tuple[Array, ...], at: StepContext, max_ratio: Any) -> Array:
    """The mean over the step of the line through the last two estimates, to second order in h."""
    (D_1,) = earlier
    (h_1,) = at.earlier_h(1)
    slope = jnp.where(at.trusted_order(2, max_ratio) == 2, at.h / (2 * h_1), 0.0)
    return D + slope * (D - D_1)


def _parabola(D: Array, earlier: tuple[Array, ...], at: StepContext, max_ratio: Any) -> Array:
    """The weighted mean over the step of the parabola through the last three estimates."""
    D_1, D_2 = earlier
    h, (h_1, h_2), order = at.h, at.earlier_h(2), at.trusted_order(3, max_ratio)
    first, second = (D - D_1) * (h / h_1), (D_1 - D_2) * (h / h_2)
    slope = jnp.where(order == 3, first + h_1 / (h_1 + h_2) * (first - second), first)
    curvature = jnp.where(order == 3, 2 * (first - second) * h / (h_1 + h_2), 0.0)
    # phi-functions of the exponential integrator; at order 2 the published, simpler weight 1/2
    change = jnp.where(order == 3, h * phi(2, h) / at.p, 0.5) * slope
    change = change + h * phi(3, h) / at.p * curvature
    return jnp.where(order == 1, D, D + change)


@dataclass(frozen=True)
class DPMSolverSDE(BaseSampler):
    """DPM-Solver++ SDE 2M: the second-order multistep for the reverse SDE, which draws noise.

    Attributes:
      eta: amount of noise, >= 0; 1 is the reverse SDE, 0 is DPM-Solver++ 2M.
      max_ratio: as of `DPMSolver`.
    Source: Lu et al. 2022, arXiv:2211.01095, appendix (SDE-DPM-Solver++ 2M). nfe = num_steps.
    """

    eta: float = 1.0
    max_ratio: float = 2.0

    def __post_init__(self):
        demand("[0, inf)", eta=self.eta)
        demand("(0, inf]", max_ratio=self.max_ratio)

    @property
    def order(self) -> int:
        return 2 if self.eta == 0 else 1

    @property
    def is_deterministic(self) -> bool:
        return self.eta == 0

    def init(self, x_T):
        return (jnp.zeros_like(x_T),)  # the estimate of the step before

    def step(self, denoise, x, memory, at):
        D = denoise(x, at.sigma)
        x_weight, D_weight = at.q ** (1 + self.eta), -jnp.expm1(-(1 + self.eta) * at.h)
        x = interpolate(x, _line(D, memory, at, self.max_ratio), x_weight, D_weight)
        return at.add_noise(x, at.sigma_next * jnp.sqrt(-jnp.expm1(-2 * self.eta * at.h))), (D,)
