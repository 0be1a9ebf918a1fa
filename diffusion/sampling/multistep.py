"""Samplers with memory: earlier estimates of x_0 raise the order without calling the network.

q, p and h are those of `dpm`; the last step, to sigma = 0, returns D itself, so no noise is left.
"""

import math
from dataclasses import dataclass, field

import jax.numpy as jnp
from jaxtyping import Array

from diffusion.ranges import demand
from diffusion.sampling.loop import BaseSampler
from diffusion.sampling.phi import phi
from diffusion.sampling.step_context import interpolate


@dataclass(frozen=True)
class UniPC(BaseSampler):
    """Unified predictor-corrector: each new estimate also corrects the step before it.

    Attributes:
      predictor_order: 2 or 3; the corrector adds one.
      corrects: whether there is a corrector; without it the predictor is used alone.
      lowers_final: whether the order falls by one at each of the last steps also where the grid
        ends above 0; diffusers' lower_order_final.
      B: "bh2", B(h) = exp(h) - 1, or "bh1", B(h) = h: scales the weight of a single difference,
        B(h) / (2 (exp(h) - 1)); with more of them it cancels.
      max_ratio: a step in ln(sigma) that is more than this many times as long as the one before it
        is predicted with a lower order, see `StepContext.trusted_order`; > 0, infinite for the
        published method.
    Source: Zhao et al. 2023, arXiv:2302.04867, Algorithms 5 to 8. nfe = num_steps.
    """

    predictor_order: int = field(default=2, metadata={"static": True})
    max_ratio: float = 2.0
    corrects: bool = field(default=True, metadata={"static": True})
    B: str = field(default="bh2", metadata={"static": True})
    lowers_final: bool = field(default=False, metadata={"static": True})

    def __post_init__(self):
        if self.predictor_order not in (2, 3):
            raise ValueError(f"predictor_order={self.predictor_order} of UniPC is neither 2 nor 3.")
        if self.B not in ("bh1", "bh2"):
            raise ValueError(f"B={self.B!r} of UniPC is neither 'bh1' nor 'bh2'.")
        demand("(0, inf]", max_ratio=self.max_ratio)

    @property
    def order(self) -> int:
        return self.predictor_order + self.corrects

    def init(self, x_T):
        # x at the start of the step before, corrected, and the latest estimates, newest first
        return (jnp.zeros_like(x_T),) * (self.predictor_order + 1)

    def step(self, denoise, x, memory, at):
        order = self.predictor_order
        x_1, D_1, *older = memory
        D = denoise(x, at.sigma)

        # correct the step before by the estimate at its end
        last = at._replace(step=jnp.maximum(at.step - 1, 0))
        h, gaps = last.h, last.earlier_h(order - 1)
        num_estimates = jnp.minimum(at.step, order)
        for k in range(1, order + 1) if self.corrects else ():
            nodes = [*nodes_of(h, gaps[: k - 1]), jnp.ones_like(h)]
            estimate = self._estimate(D_1, h, [*older[: k - 1], D], nodes)
            corrected = interpolate(x_1, estimate, last.q, last.p)
            x = jnp.where(num_estimates == k, corrected, x)

        # predict the next
        h, gaps = at.h, at.earlier_h(order - 1)
        # before sigma = 0 the order falls by one at each step
        ends_above_zero = at.sigmas[at.num_steps] > 0
        steps_left = at.num_steps - at.step
        if not self.lowers_final:
            steps_left = jnp.where(ends_above_zero, order, steps_left)
        order_here = jnp.minimum(at.trusted_order(order, self.max_ratio), steps_left)
        if self.B == "bh1":
            order_here = jnp.where(h <= self.max_ratio / 2, order_here, 1)
        estimate = D
        for k in range(2, order + 1):
            nodes = nodes_of(h, gaps[: k - 1])
            polynomial = self._estimate(D, h, [D_1, *older][: k - 1], nodes)
            estimate = jnp.where(order_here == k, polynomial, estimate)
        return interpolate(x, estimate, at.q, at.p), (x, D, D_1, *older[:-1])

    def _estimate(self, D: Array, h: Array, others: list[Array], nodes: list[Array]) -> Array:
        """The mean of a polynomial through D, at 0, and the others, at their nodes."""
        if len(nodes) == 1:
            weights = [0.5 if self.B == "bh2" else h / (-2 * jnp.expm1(-h))]
        else:
            weights = exact_weights(h, nodes)
        pairs = zip(weights, differences_at(D, others, nodes), strict=True)
        return D + sum(weight * difference for weight, difference in pairs)


def nodes_of(h: Array, gaps: list[Array]) -> list[Array]:
    """Places of earlier estimates in lambda, from the start of the step in units of h: negative."""
    nodes, distance = [], jnp.zeros_like(h)
    for gap in gaps:
        distance = distance + gap
        nodes.append(-distance / h)
    return nodes


def differences_at(D: Array, others: list[Array], nodes: list[Array]) -> list[Array]:
    """(D_k - D) / node_k of each other estimate."""
    return [(D_k - D) / node for D_k, node in zip(others, nodes, strict=True)]


def exact_weights(h: Array, nodes: list[Array]) -> Array:
    """Weights of the differences that integrate a polynomial through all nodes exactly.

    Source: Zhao et al. 2023, arXiv:2302.04867, equation 12.
    """
    powers = range(len(nodes))
    rows = jnp.stack([jnp.stack([node**power for node in nodes]) for power in powers])
    b = [math.factorial(k + 1) * phi(k + 2, h) / phi(1, h) for k in powers]
    return jnp.linalg.solve(rows, jnp.stack(b))


@dataclass(frozen=True)
class AdamsBashforth(BaseSampler):
    """Linear multistep in sigma ("LMS"): the slope is a polynomial through the latest ones.

    Attributes:
      order: 2, 3 or 4.
      max_ratio: a step in sigma that is more than this many times as long as the one before it is
        taken with order 2 at most; > 0, infinite for the published method.
      lowers_last: whether the step to sigma = 0 returns the estimate D itself, as all samplers here
        do; otherwise it is a step like the others, as in k-diffusion's LMS, which differs by up to
        0.02 of the images' scale in ten steps.
    Source: Adams-Bashforth with variable steps, Hairer, Norsett & Wanner 1993, section III.5; in
      sigma as k-diffusion's LMS. `PNDM` has the weights of equal steps instead. nfe = num_steps.
    """

    order: int = field(default=4, metadata={"static": True})
    max_ratio: float = 1.2
    lowers_last: bool = field(default=True, metadata={"static": True})

    def __post_init__(self):
        if self.order not in (2, 3, 4):
            raise ValueError(f"order={self.order} of AdamsBashforth is none of 2, 3, 4.")
        demand("(0, inf]", max_ratio=self.max_ratio)

    def init(self, x_T):
        return (jnp.zeros_like(x_T),) * (self.order - 1)  # the latest slopes, newest first

    def step(self, denoise, x, memory, at):
        D = denoise(x, at.sigma)
        slope, change = (x - D) / at.sigma, at.sigma_next - at.sigma
        # earlier sigmas from the start of the step in units of it; 0 where there are none
        nodes = [(at.earlier_sigma(ago) - at.sigma) / change for ago in range(1, self.order)]
        estimate = D
        for k in range(2, self.order + 1):
            pairs = zip(_integrals(nodes[: k - 1]), memory[: k - 1], strict=True)
            # change * slope is p (D - x): a correction of the slope is one of -D, times sigma
            correction = at.sigma * sum(w * (earlier - slope) for w, earlier in pairs)
            available = at.available_order(self.order)
            if not self.lowers_last:
                available = jnp.minimum(at.step + 1, self.order)
            is_long = change < self.max_ratio * (at.sigma - at.earlier_sigma(1))  # both below 0
            available = jnp.where(is_long, jnp.minimum(available, 2), available)
            estimate = jnp.where(available == k, D - correction, estimate)
        return interpolate(x, estimate, at.q, at.p), (slope, *memory)[:-1]


def _integrals(nodes: list[Array]) -> list[Array]:
    """Integrals over [0, 1] of the Lagrange polynomials of these nodes and node 0.

    By Gauss' rule of two points, which is exact to degree 3.
    """
    points = [(1 - 1 / math.sqrt(3)) / 2, (1 + 1 / math.sqrt(3)) / 2]

    def polynomial(u: float, j: int) -> Array:
        value = u / _nonzero(nodes[j])
        for i, node in enumerate(nodes):
            if i != j:
                value = value * (u - node) / _nonzero(nodes[j] - node)
        return value

    return [(polynomial(points[0], j) + polynomial(points[1], j)) / 2 for j in range(len(nodes))]


def _nonzero(gap: Array) -> Array:
    return jnp.where(gap == 0, 1.0, gap)  # the gap is 0 where there is no earlier sigma
