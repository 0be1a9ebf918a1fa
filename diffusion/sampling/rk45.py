"""The adaptive sampler: it chooses its own steps, for each image apart."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffusion.denoiser import Denoise
from diffusion.ranges import demand
from diffusion.sampling.loop import BaseSampler, as_pytree, check_call, check_grid
from diffusion.sampling.ode import integrate
from diffusion.sampling.unit_noise import Keys


@dataclass(frozen=True)
class RK45(BaseSampler):
    """Adaptive Runge-Kutta of order 5 on the probability-flow ODE in ln(sigma); deterministic.

    dx/ds = D(x; sigma) - x,  s = ln(sigma_first / sigma)

    Integrates from the first sigma of the grid to its last above 0, and returns D there if the grid
    ends in 0. The sigmas between them are not used.

    Attributes:
      tolerance: of the error of a step, relative and absolute to each value; in (0, 1).
    Source: as `ode`. nfe depends on the denoiser; `count` returns it.
    """

    tolerance: float = 1e-4
    order = 5
    is_adaptive = True

    def __post_init__(self):
        demand("(0, 1)", tolerance=self.tolerance)

    def nfe(self, num_steps: int, *, ends_above_zero: bool = False) -> None:
        return None

    def __call__(
        self, denoise: Denoise, x_T: Float[Array, "B ..."], sigmas: Float[Array, "S"], key: Keys
    ) -> Float[Array, "B ..."]:
        check_call(x_T, sigmas, key)
        return self.count(denoise, x_T, sigmas)[0]

    def count(
        self, denoise: Denoise, x_T: Float[Array, "B ..."], sigmas: Float[Array, "S"]
    ) -> tuple[Float[Array, "B ..."], Int[Array, ""]]:
        """Returns (x_0, nfe)."""
        check_grid(sigmas)
        sigmas = jnp.asarray(sigmas)
        ends_at_0 = sigmas[-1] == 0
        last = jnp.where(ends_at_0, sigmas[-2], sigmas[-1])
        return _integrate(self, as_pytree(denoise), x_T, sigmas[0], last, ends_at_0)


@jax.jit
def _integrate(
    sampler: RK45, denoise: Denoise, x_T: Array, first: Array, last: Array, ends_at_0: Array
) -> tuple[Array, Array]:
    def slope(s: Array, x: Array) -> Array:  # s = ln(first / sigma)
        return denoise(x, first * jnp.exp(-s)) - x

    x, nfe = integrate(slope, x_T, jnp.log(first / last), sampler.tolerance)
    return jax.lax.cond(ends_at_0, lambda: denoise(x, last), lambda: x), nfe + ends_at_0
