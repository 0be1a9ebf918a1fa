"""DPM-Solver++: the estimate is a polynomial in lambda = -ln(sigma).

With h the step in lambda and q = sigma_next / sigma = exp(-h), the probability flow in
x_t = x_0 + sigma * eps is

x_next = q x + sigma_next * integral of exp(lambda) D d lambda,

which is exact where the estimate D is a polynomial in lambda; samplers differ in the polynomial.
The last step, to sigma = 0, returns D itself, so no noise is left.

Source: Lu et al. 2022, "DPM-Solver++", arXiv:2211.01095; in these terms Karras et al. 2022.
"""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array

from diffusion.ranges import demand
from diffusion.sampling.loop import Method, OnGrid
from diffusion.sampling.step import Now, history, phi, toward, with_noise


@dataclass(frozen=True)
class DPMSolver2S(OnGrid):
    """DPM-Solver++ 2S: second order by one more estimate in the middle of the step, in ln(sigma).

    Source: Lu et al. 2022, arXiv:2211.01095, Algorithm 1 with r = 1/2. nfe = 2 * num_steps - 1.
    """

    order = 2

    def nfe(self, num_steps: int) -> int:
        return 2 * num_steps - 1

    @property
    def method(self) -> Method:
        return _DPM_2S


def _dpm_2s(denoise, x, memory, now: Now, settings):
    D = denoise(x, now.sigma)
    middle = jnp.sqrt(now.q)

    def by_the_middle() -> Array:
        x_middle = toward(x, D, middle, now.p / (1 + middle))
        return toward(x, denoise(x_middle, middle * now.sigma), now.q, now.p)

    return jax.lax.cond(now.sigma_next > 0, by_the_middle, lambda: D), memory


_DPM_2S = Method(_dpm_2s)


@dataclass(frozen=True)
class DPMSolver(OnGrid):
    """DPM-Solver++ 2M and 3M: the estimate is a line, or a parabola, in ln(sigma).

    Attributes:
      order: 2 or 3; 1 is Euler (DDIM).
    Source: Lu et al. 2022, arXiv:2211.01095, Algorithm 2 and appendix B. nfe = num_steps.
      Deviation: in the published third-order step the second derivative of D is half of what it
      should be, which leaves it at second order; here it is whole.
    """

    order: int = 2

    def __post_init__(self):
        if self.order not in (2, 3):
            raise ValueError(f"order={self.order} of DPMSolver is neither 2 nor 3.")

    @property
    def method(self) -> Method:
        return {2: _DPM_2M, 3: _DPM_3M}[self.order]


def _dpm_2m(denoise, x, memory, now: Now, settings):
    (D_1,) = memory
    D = denoise(x, now.sigma)
    (h_1,) = now.earlier_h(1)
    slope = jnp.where(now.order(2) == 2, now.h / (2 * h_1), 0.0)
    return toward(x, D + slope * (D - D_1), now.q, now.p), (D,)


def _dpm_3m(denoise, x, memory, now: Now, settings):
    D_1, D_2 = memory
    D, h = denoise(x, now.sigma), now.h
    h_1, h_2 = now.earlier_h(2)
    order = now.order(3)
    first, second = (D - D_1) * (h / h_1), (D_1 - D_2) * (h / h_2)
    slope = jnp.where(order == 3, first + h_1 / (h_1 + h_2) * (first - second), first)
    bend = jnp.where(order == 3, 2 * (first - second) * h / (h_1 + h_2), 0.0)
    # phi-functions of the exponential integrator; on the second order's step its own, simpler one
    ahead = jnp.where(order == 3, h * phi(2, h) / now.p, 0.5) * slope
    ahead = ahead + h * phi(3, h) / now.p * bend
    return toward(x, jnp.where(order == 1, D, D + ahead), now.q, now.p), (D, D_1)


_DPM_2M = Method(_dpm_2m, history(1))
_DPM_3M = Method(_dpm_3m, history(2))


@dataclass(frozen=True)
class DPMSolverSDE(OnGrid):
    """DPM-Solver++ SDE 2M: the second-order step of a diffusion that adds noise as it goes.

    Attributes:
      eta: how much noise, >= 0; 1 is the reverse SDE, 0 is DPM-Solver++ 2M.
    Source: Lu et al. 2022, arXiv:2211.01095, appendix (SDE-DPM-Solver++ 2M). nfe = num_steps.
    """

    eta: float = 1.0

    def __post_init__(self):
        demand("[0, inf)", eta=self.eta)

    @property
    def order(self) -> int:
        return 2 if self.eta == 0 else 1

    @property
    def method(self) -> Method:
        return _DPM_SDE

    @property
    def settings(self) -> tuple[float, ...]:
        return (self.eta,)


def _dpm_sde(denoise, x, memory, now: Now, settings):
    (D_1,), (eta,) = memory, settings
    D = denoise(x, now.sigma)
    (h_1,) = now.earlier_h(1)
    slope = jnp.where(now.order(2) == 2, now.h / (2 * h_1), 0.0)
    kept, taken = now.q ** (1 + eta), -jnp.expm1(-(1 + eta) * now.h)
    x = toward(x, D + slope * (D - D_1), kept, taken)
    return with_noise(x, now.sigma_next * jnp.sqrt(-jnp.expm1(-2 * eta * now.h)), now), (D,)


_DPM_SDE = Method(_dpm_sde, history(1))


DPM = DPMSolver2S | DPMSolver | DPMSolverSDE
