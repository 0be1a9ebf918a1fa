"""Samplers that remember: earlier estimates of x_0 raise the order without calling the network.

With lambda = -ln(sigma), h the step in lambda and q = sigma_next / sigma = exp(-h), the probability
flow in x_t = x_0 + sigma * eps is

x_next = q x + sigma_next * integral of exp(lambda) D d lambda,

which is exact where the estimate D is a polynomial in lambda; samplers differ in the polynomial.
The last step, to sigma = 0, returns D itself, so no noise is left.

Source: Lu et al. 2022, "DPM-Solver++", arXiv:2211.01095; in these terms Karras et al. 2022.
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.denoiser import Denoise
from diffusion.solve import Keys, Method, Now, solve


def _log_ratio(sigma: Array, sigma_next: Array) -> Array:
    """h = ln(sigma / sigma_next), kept finite where sigma_next is 0: such a step uses no h."""
    return jnp.log(sigma / jnp.maximum(sigma_next, 1e-20 * sigma))


def _last_steps(now: Now, count: int) -> list[Array]:
    """h of this step, of the one before it, ...; those before the first are set to 1."""
    steps = [_log_ratio(now.sigma, now.sigma_next)]
    for ago in range(count):
        h = _log_ratio(now.before(ago + 1), now.before(ago))
        steps.append(jnp.where(h > 0, h, 1.0))
    return steps


def _history(count: int):
    """Memory of `count` earlier arrays, newest first."""
    return lambda x_T: tuple(jnp.zeros_like(x_T) for _ in range(count))


def _order_now(now: Now, order: int) -> Array:
    """As many estimates as there are, and the first order on the step to 0."""
    return jnp.where(now.sigma_next > 0, jnp.minimum(now.step + 1, order), 1)


@dataclass(frozen=True)
class DPMSolver:
    """DPM-Solver++ 2M and 3M: the estimate is a line, or a parabola, in ln(sigma).

    Attributes:
      order: 2 or 3; 1 is Euler (DDIM).
    Source: Lu et al. 2022, arXiv:2211.01095, Algorithm 2 and appendix B. nfe = num_steps.
      Deviation: in the published third-order step the second derivative of D is half of what it
      should be, which leaves it at second order; here it is whole.
    """

    order: int = 2
    settings = ()

    def __post_init__(self):
        if self.order not in (2, 3):
            raise ValueError(f"order={self.order} of DPMSolver is neither 2 nor 3.")

    def nfe(self, num_steps: int) -> int:
        return num_steps

    @property
    def method(self) -> Method:
        return {2: _DPM_2M, 3: _DPM_3M}[self.order]

    def __call__(
        self, denoise: Denoise, x_T: Float[Array, "B ..."], sigmas: Float[Array, "S"], key: Keys
    ) -> Float[Array, "B ..."]:
        return solve(self, denoise, x_T, sigmas, key)


def _dpm_2m(denoise, x, memory, now: Now, settings):
    (D_1,) = memory
    D = denoise(x, now.sigma)
    q = now.sigma_next / now.sigma
    h, h_1 = _last_steps(now, 1)
    slope = jnp.where(_order_now(now, 2) == 2, h / (2 * h_1), 0.0)
    return q * x + (1 - q) * (D + slope * (D - D_1)), (D,)


def _dpm_3m(denoise, x, memory, now: Now, settings):
    D_1, D_2 = memory
    D = denoise(x, now.sigma)
    q = now.sigma_next / now.sigma
    h, h_1, h_2 = _last_steps(now, 2)
    order = _order_now(now, 3)
    first, second = (D - D_1) * (h / h_1), (D_1 - D_2) * (h / h_2)
    slope = jnp.where(order == 3, first + h_1 / (h_1 + h_2) * (first - second), first)
    bend = jnp.where(order == 3, 2 * (first - second) * h / (h_1 + h_2), 0.0)
    # phi-functions of the exponential integrator; on the second order's step its own, simpler one
    weight = jnp.where(order == 3, 1 - (1 - q) / h, (1 - q) / 2)
    x_first = q * x + (1 - q) * D
    x = x_first + weight * slope - ((q - 1 + h) / h**2 - 0.5) * bend
    return jnp.where(order == 1, x_first, x), (D, D_1)


_DPM_2M = Method(_dpm_2m, _history(1))
_DPM_3M = Method(_dpm_3m, _history(2))


@dataclass(frozen=True)
class DPMSolverSDE:
    """DPM-Solver++ SDE 2M: the second-order step of a diffusion that adds noise as it goes.

    Attributes:
      eta: how much noise, >= 0; 1 is the reverse SDE, 0 is DPM-Solver++ 2M.
    Source: Lu et al. 2022, arXiv:2211.01095, appendix (SDE-DPM-Solver++ 2M). nfe = num_steps.
    """

    eta: float = 1.0
    order = 1

    def __post_init__(self):
        if not 0 <= self.eta < math.inf:
            raise ValueError(f"eta={self.eta} must be 0 or more.")

    def nfe(self, num_steps: int) -> int:
        return num_steps

    @property
    def method(self) -> Method:
        return _DPM_SDE

    @property
    def settings(self) -> tuple[float, ...]:
        return (self.eta,)

    def __call__(
        self, denoise: Denoise, x_T: Float[Array, "B ..."], sigmas: Float[Array, "S"], key: Keys
    ) -> Float[Array, "B ..."]:
        return solve(self, denoise, x_T, sigmas, key)


def _dpm_sde(denoise, x, memory, now: Now, settings):
    (D_1,), (eta,) = memory, settings
    D = denoise(x, now.sigma)
    q = now.sigma_next / now.sigma
    h, h_1 = _last_steps(now, 1)
    slope = jnp.where(_order_now(now, 2) == 2, h / (2 * h_1), 0.0)
    kept = q ** (1 + eta)
    std = now.sigma_next * jnp.sqrt(1 - q ** (2 * eta))
    return kept * x + (1 - kept) * (D + slope * (D - D_1)) + std * now.noise(x), (D,)


_DPM_SDE = Method(_dpm_sde, _history(1))


@dataclass(frozen=True)
class UniPC:
    """Unified predictor-corrector: each new estimate also corrects the step that led to it.

    Attributes:
      order: 2 or 3, of the predictor; the corrector has one more.
    Source: Zhao et al. 2023, arXiv:2302.04867, Algorithms 5 to 8 with B(h) = exp(h) - 1 ("bh2").
      nfe = num_steps.
    """

    order: int = 2
    settings = ()

    def __post_init__(self):
        if self.order not in (2, 3):
            raise ValueError(f"order={self.order} of UniPC is neither 2 nor 3.")

    def nfe(self, num_steps: int) -> int:
        return num_steps

    @property
    def method(self) -> Method:
        return {2: _UNIPC_2, 3: _UNIPC_3}[self.order]

    def __call__(
        self, denoise: Denoise, x_T: Float[Array, "B ..."], sigmas: Float[Array, "S"], key: Keys
    ) -> Float[Array, "B ..."]:
        return solve(self, denoise, x_T, sigmas, key)


def _unipc_weights(h: Array, nodes: list[Array]) -> Array:
    """Weights of the differences at the nodes (in units of h), from equation 12 of the paper."""
    if len(nodes) == 1:
        return jnp.full(1, 0.5, h.dtype)
    rows, b, phi, factorial = [], [], jnp.expm1(-h) / -h - 1, 1.0
    for power in range(len(nodes)):
        factorial *= power + 1
        rows.append(jnp.stack([node**power for node in nodes]))
        b.append(phi * factorial / jnp.expm1(-h))
        phi = phi / -h - 1 / (factorial * (power + 2))
    return jnp.linalg.solve(jnp.stack(rows), jnp.stack(b))


def _unipc_step(x: Array, D: Array, q: Array, h: Array, differences: list, nodes: list) -> Array:
    """The step from x by the estimate D there and differences (D_k - D) / node_k elsewhere."""
    x = q * x + (1 - q) * D
    if not differences:
        return x
    weights = _unipc_weights(h, nodes)
    pairs = zip(weights, differences, strict=True)
    return x + (1 - q) * sum(weight * difference for weight, difference in pairs)


def _unipc(order: int) -> Method:
    def step(denoise, x, memory, now: Now, settings):
        x_1, *earlier = memory  # where the last step began, corrected; D_1, D_2, ...
        D = denoise(x, now.sigma)
        D_1, *older = earlier

        # correct the step that led here, by the estimate at its end
        h, *gaps = _last_steps(Now(jnp.maximum(now.step - 1, 0), *now[1:]), order - 1)
        reached = jnp.minimum(now.step, order)
        q = now.sigma / now.before(1)
        for k in range(1, order + 1):
            nodes = _nodes(h, gaps[: k - 1])
            differences = [
                (D_k - D_1) / node for D_k, node in zip(older[: k - 1], nodes, strict=True)
            ]
            at_end = [*nodes, jnp.ones_like(h)]
            corrected = _unipc_step(x_1, D_1, q, h, [*differences, D - D_1], at_end)
            x = jnp.where(reached == k, corrected, x)

        # predict the next
        h, *gaps = _last_steps(now, order - 1)
        q = now.sigma_next / now.sigma
        # towards sigma = 0 the order falls step by step
        left = jnp.where(now.sigmas[now.num_steps] > 0, order, now.num_steps - now.step)
        now_order = jnp.minimum(_order_now(now, order), left)
        x_next = x
        for k in range(1, order + 1):
            nodes = _nodes(h, gaps[: k - 1])
            differences = [
                (D_k - D) / node for D_k, node in zip(earlier[: k - 1], nodes, strict=True)
            ]
            x_next = jnp.where(now_order == k, _unipc_step(x, D, q, h, differences, nodes), x_next)
        return x_next, (x, D, *earlier[:-1])

    return Method(step, _history(order + 1))


def _nodes(h: Array, gaps: list[Array]) -> list[Array]:
    """Where earlier estimates stand in lambda, in units of h from the step's start: negative."""
    nodes, distance = [], jnp.zeros_like(h)
    for gap in gaps:
        distance = distance + gap
        nodes.append(-distance / h)
    return nodes


_UNIPC_2, _UNIPC_3 = _unipc(2), _unipc(3)


@dataclass(frozen=True)
class AdamsBashforth:
    """Linear multistep in sigma: the slope is a polynomial through the last ones ("LMS").

    Attributes:
      order: 2, 3 or 4.
    Source: Adams-Bashforth with variable steps, Hairer, Norsett & Wanner 1993, section III.5; for
      diffusion Liu et al. 2022, arXiv:2202.09778. nfe = num_steps.
    """

    order: int = 4
    settings = ()

    def __post_init__(self):
        if self.order not in (2, 3, 4):
            raise ValueError(f"order={self.order} of AdamsBashforth is none of 2, 3, 4.")

    def nfe(self, num_steps: int) -> int:
        return num_steps

    @property
    def method(self) -> Method:
        return {2: _ADAMS_2, 3: _ADAMS_3, 4: _ADAMS_4}[self.order]

    def __call__(
        self, denoise: Denoise, x_T: Float[Array, "B ..."], sigmas: Float[Array, "S"], key: Keys
    ) -> Float[Array, "B ..."]:
        return solve(self, denoise, x_T, sigmas, key)


def _adams(order: int) -> Method:
    def step(denoise, x, memory, now: Now, settings):
        slopes = ((x - denoise(x, now.sigma)) / now.sigma, *memory)
        nodes = [now.before(ago) for ago in range(order)]
        now_order = _order_now(now, order)
        x_next = x
        for k in range(1, order + 1):
            weights = _integrals(now.sigma, now.sigma_next, nodes[:k])
            change = sum(w * slope for w, slope in zip(weights, slopes[:k], strict=True))
            x_next = jnp.where(now_order == k, x + change, x_next)
        return x_next, slopes[:-1]

    return Method(step, _history(order - 1))


def _integrals(start: Array, end: Array, nodes: list[Array]) -> list[Array]:
    """Integrals of the Lagrange polynomials through the nodes, by Gauss' two points (degree 3)."""
    middle, half = (start + end) / 2, (end - start) / 2
    points = [middle - half / math.sqrt(3), middle + half / math.sqrt(3)]

    def polynomial(at: Array, j: int) -> Array:
        value = jnp.ones_like(at)
        for i, node in enumerate(nodes):
            if i != j:
                gap = nodes[j] - node
                value = value * (at - node) / jnp.where(gap == 0, 1.0, gap)  # before the first
        return value

    return [half * (polynomial(points[0], j) + polynomial(points[1], j)) for j in range(len(nodes))]


_ADAMS_2, _ADAMS_3, _ADAMS_4 = _adams(2), _adams(3), _adams(4)

MultiStep = DPMSolver | DPMSolverSDE | UniPC | AdamsBashforth
