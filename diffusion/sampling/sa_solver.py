"""SA-Solver: stochastic Adams, a predictor and corrector for the reverse SDE."""

from dataclasses import dataclass, field

import jax.numpy as jnp

from diffusion.ranges import demand
from diffusion.sampling.loop import BaseSampler
from diffusion.sampling.multistep import differences_at, exact_weights, nodes_of
from diffusion.sampling.step_context import StepContext, interpolate


@dataclass(frozen=True)
class SASolver(BaseSampler):
    """Predicts by a polynomial through earlier estimates, and corrects by the one at the end.

    x_next = e^-H x + integral from 0 to H of e^(v - H) D dv + sigma_next sqrt(1 - e^(-2 eta h)) z

    with H = (1 + eta) h, v = (1 + eta) u, and D a polynomial in ln(sigma). The corrector uses the
    predictor's noise again.

    Attributes:
      eta: amount of noise, the paper's tau^2, >= 0; 1 is the reverse SDE, 0 the ODE.
      predictor_order: 2 or 3; the corrector adds one.
      max_ratio: as of `DPMSolver`, for the predictor.
    Source: Xue et al. 2023, arXiv:2305.13495, Algorithm 1 with a constant tau. nfe = num_steps.
    """

    eta: float = 1.0
    predictor_order: int = field(default=2, metadata={"static": True})
    max_ratio: float = 2.0

    def __post_init__(self):
        demand("[0, inf)", eta=self.eta)
        demand("(0, inf]", max_ratio=self.max_ratio)
        if self.predictor_order not in (2, 3):
            raise ValueError(
                f"predictor_order={self.predictor_order} of SASolver is neither 2 nor 3."
            )

    @property
    def order(self) -> int:
        return self.predictor_order + 1 if self.eta == 0 else 1

    @property
    def is_deterministic(self) -> bool:
        return self.eta == 0

    def init(self, x_T):
        # x at the start of the step before, its noise, and the latest estimates, newest first
        return (jnp.zeros_like(x_T),) * (self.predictor_order + 2)

    def step(self, denoise, x, memory, at):
        order = self.predictor_order
        x_1, noise_1, D_1, *older = memory
        D = denoise(x, at.sigma)

        # correct the step before by the estimate at its end, with the same noise
        last = at._replace(step=jnp.maximum(at.step - 1, 0))
        gaps, available = last.earlier_h(order - 1), jnp.minimum(at.step, order)
        for k in range(1, order + 1):
            nodes = [*nodes_of(last.h, gaps[: k - 1]), jnp.ones_like(last.h)]
            corrected = self._mean(x_1, D_1, [*older[: k - 1], D], nodes, last) + noise_1
            x = jnp.where(available == k, corrected, x)

        # predict the next; before sigma = 0 the order falls by one at each step
        gaps = at.earlier_h(order - 1)
        steps_left = jnp.where(at.sigmas[at.num_steps] > 0, order, at.num_steps - at.step)
        order_here = jnp.minimum(at.trusted_order(order, self.max_ratio), steps_left)
        order_here = jnp.where(at.h <= self.max_ratio / 2, order_here, 1)
        x_next = self._mean(x, D, [], [], at)
        for k in range(2, order + 1):
            nodes = nodes_of(at.h, gaps[: k - 1])
            predicted = self._mean(x, D, [D_1, *older][: k - 1], nodes, at)
            x_next = jnp.where(order_here == k, predicted, x_next)
        std = at.sigma_next * jnp.sqrt(-jnp.expm1(-2 * self.eta * at.h))
        with_noise = at.add_noise(x_next, std)
        return with_noise, (x, with_noise - x_next, D, D_1, *older[:-1])

    def _mean(self, x, D, others: list, nodes: list, at: StepContext):
        """x after the step without noise; D is a polynomial through D and the others, at nodes."""
        H = (1 + self.eta) * at.h
        estimate = D
        if nodes:
            pairs = zip(exact_weights(H, nodes), differences_at(D, others, nodes), strict=True)
            estimate = D + sum(weight * difference for weight, difference in pairs)
        return interpolate(x, estimate, at.q ** (1 + self.eta), -jnp.expm1(-H))
