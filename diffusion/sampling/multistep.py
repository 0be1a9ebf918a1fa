"""Samplers that remember: earlier estimates of x_0 raise the order without calling the network.

The step's terms are those of `dpm`; the last step, to sigma = 0, returns D itself, so no noise is
left.
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array

from diffusion.sampling.loop import Method, OnGrid
from diffusion.sampling.step import Now, history, phi, toward


@dataclass(frozen=True)
class UniPC(OnGrid):
    """Unified predictor-corrector: each new estimate also corrects the step that led to it.

    Attributes:
      predictor_order: 2 or 3; the corrector brings one more.
    Source: Zhao et al. 2023, arXiv:2302.04867, Algorithms 5 to 8 with B(h) = exp(h) - 1 ("bh2").
      nfe = num_steps.
    """

    predictor_order: int = 2

    def __post_init__(self):
        if self.predictor_order not in (2, 3):
            raise ValueError(f"predictor_order={self.predictor_order} of UniPC is neither 2 nor 3.")

    @property
    def order(self) -> int:
        return self.predictor_order + 1

    @property
    def method(self) -> Method:
        return {2: _UNIPC_2, 3: _UNIPC_3}[self.predictor_order]


def _unipc_weights(h: Array, nodes: list[Array]) -> Array:
    """Weights of the differences at the nodes (in units of h), from equation 12 of the paper."""
    if len(nodes) == 1:
        return jnp.full(1, 0.5, h.dtype)
    powers = range(len(nodes))
    rows = jnp.stack([jnp.stack([node**power for node in nodes]) for power in powers])
    b = [math.factorial(k + 1) * phi(k + 2, h) / phi(1, h) for k in powers]
    return jnp.linalg.solve(rows, jnp.stack(b))


def _unipc_estimate(D: Array, h: Array, differences: list, nodes: list) -> Array:
    """The step's estimate, by that at its start and differences (D_k - D) / node_k elsewhere."""
    pairs = zip(_unipc_weights(h, nodes), differences, strict=True)
    return D + sum(weight * difference for weight, difference in pairs)


def _unipc(order: int) -> Method:
    def step(denoise, x, memory, now: Now, settings):
        x_1, *earlier = memory  # where the last step began, corrected; D_1, D_2, ...
        D = denoise(x, now.sigma)
        D_1, *older = earlier

        # correct the step that led here, by the estimate at its end
        last = now._replace(step=jnp.maximum(now.step - 1, 0))
        h, gaps = last.h, last.earlier_h(order - 1)
        reached = jnp.minimum(now.step, order)
        for k in range(1, order + 1):
            nodes = _nodes(h, gaps[: k - 1])
            differences = [
                (D_k - D_1) / node for D_k, node in zip(older[: k - 1], nodes, strict=True)
            ]
            at_end = [*nodes, jnp.ones_like(h)]
            estimate = _unipc_estimate(D_1, h, [*differences, D - D_1], at_end)
            corrected = toward(x_1, estimate, last.q, last.p)
            x = jnp.where(reached == k, corrected, x)

        # predict the next
        h, gaps = now.h, now.earlier_h(order - 1)
        # towards sigma = 0 the order falls step by step
        left = jnp.where(now.sigmas[now.num_steps] > 0, order, now.num_steps - now.step)
        now_order = jnp.minimum(now.order(order), left)
        estimate = D
        for k in range(2, order + 1):
            nodes = _nodes(h, gaps[: k - 1])
            differences = [
                (D_k - D) / node for D_k, node in zip(earlier[: k - 1], nodes, strict=True)
            ]
            predicted = _unipc_estimate(D, h, differences, nodes)
            estimate = jnp.where(now_order == k, predicted, estimate)
        return toward(x, estimate, now.q, now.p), (x, D, *earlier[:-1])

    return Method(step, history(order + 1))


def _nodes(h: Array, gaps: list[Array]) -> list[Array]:
    """Where earlier estimates stand in lambda, in units of h from the step's start: negative."""
    nodes, distance = [], jnp.zeros_like(h)
    for gap in gaps:
        distance = distance + gap
        nodes.append(-distance / h)
    return nodes


_UNIPC_2, _UNIPC_3 = _unipc(2), _unipc(3)


@dataclass(frozen=True)
class AdamsBashforth(OnGrid):
    """Linear multistep in sigma: the slope is a polynomial through the last ones ("LMS").

    Attributes:
      order: 2, 3 or 4.
    Source: Adams-Bashforth with variable steps, Hairer, Norsett & Wanner 1993, section III.5; in
      sigma as k-diffusion's LMS. PLMS (Liu et al. 2022, arXiv:2202.09778) has the coefficients of
      even steps in their place. nfe = num_steps.
    """

    order: int = 4

    def __post_init__(self):
        if self.order not in (2, 3, 4):
            raise ValueError(f"order={self.order} of AdamsBashforth is none of 2, 3, 4.")

    @property
    def method(self) -> Method:
        return {2: _ADAMS_2, 3: _ADAMS_3, 4: _ADAMS_4}[self.order]


def _adams(order: int) -> Method:
    def step(denoise, x, memory, now: Now, settings):
        D = denoise(x, now.sigma)
        slope, step = (x - D) / now.sigma, now.sigma_next - now.sigma
        # earlier nodes in units of the step from its start; before the first they all are 0
        nodes = [(now.before(ago) - now.sigma) / step for ago in range(1, order)]
        estimate = D
        for k in range(2, order + 1):
            weights = _integrals(nodes[: k - 1])
            changes = zip(weights, memory[: k - 1], strict=True)
            # step * slope is p (D - x): what is added to the slope is taken from D, times sigma
            change = now.sigma * sum(w * (earlier - slope) for w, earlier in changes)
            estimate = jnp.where(now.order(order) == k, D - change, estimate)
        x_next = toward(x, estimate, now.q, now.p)
        return x_next, (slope, *memory)[:-1]

    return Method(step, history(order - 1))


def _integrals(nodes: list[Array]) -> list[Array]:
    """Integrals over [0, 1] of the Lagrange polynomials of these nodes, which are 0 at node 0.

    By Gauss' two points, exact to degree 3.
    """
    points = [(1 - 1 / math.sqrt(3)) / 2, (1 + 1 / math.sqrt(3)) / 2]

    def polynomial(at: float, j: int) -> Array:
        value = at / _apart(nodes[j])
        for i, node in enumerate(nodes):
            if i != j:
                value = value * (at - node) / _apart(nodes[j] - node)
        return value

    return [(polynomial(points[0], j) + polynomial(points[1], j)) / 2 for j in range(len(nodes))]


def _apart(gap: Array) -> Array:
    return jnp.where(gap == 0, 1.0, gap)  # before the first


_ADAMS_2, _ADAMS_3, _ADAMS_4 = _adams(2), _adams(3), _adams(4)

MultiStep = UniPC | AdamsBashforth
