"""A step of a sampler: where it stands on the grid, and what all methods do in the same way.

With q = sigma_next / sigma and p = 1 - q the probability flow under a constant estimate D leads
from x to q x + p D. Over a thousand steps rounding adds up: p and h = -ln(q) are computed without
cancellation, and what a method adds to the first order changes D, so that each x is rounded once:
added to x for itself, it would fall below its last digit.
"""

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, Key

Keys = Key[Array, ""] | Key[Array, "B"]


class Now(NamedTuple):
    """Where the loop stands.

    Attributes:
      step: its number, from 0.
      sigmas: the padded grid; the step goes from sigmas[step] to sigmas[step + 1].
      num_steps: of the whole grid.
      key: one for the batch or one for each image.
    """

    step: Int[Array, ""]
    sigmas: Float[Array, "S"]
    num_steps: Int[Array, ""]
    key: Keys

    @property
    def sigma(self) -> Float[Array, ""]:
        return self.sigmas[self.step]

    @property
    def sigma_next(self) -> Float[Array, ""]:
        return self.sigmas[self.step + 1]

    @property
    def q(self) -> Float[Array, ""]:
        """sigma_next / sigma; 0 on the step to 0."""
        return self.sigma_next / self.sigma

    @property
    def p(self) -> Float[Array, ""]:
        """1 - q; neighbours on a grid differ by a number that float32 holds."""
        return (self.sigma - self.sigma_next) / self.sigma

    @property
    def h(self) -> Float[Array, ""]:
        """ln(sigma / sigma_next), kept finite where sigma_next is 0: such a step uses no h."""
        return log_ratio(self.sigma, self.sigma_next)

    def before(self, steps: int) -> Float[Array, ""]:
        """sigma, that many steps ago; the first where there were not so many."""
        return self.sigmas[jnp.maximum(self.step - steps, 0)]

    def earlier_h(self, count: int) -> list[Float[Array, ""]]:
        """h of the step before this, of the one before it, ...; 1 before the first."""
        hs = [log_ratio(self.before(ago + 1), self.before(ago)) for ago in range(count)]
        return [jnp.where(h > 0, h, 1.0) for h in hs]

    def order(self, highest: int) -> Int[Array, ""]:
        """As many estimates as there are, and the first order on the step to 0."""
        return jnp.where(self.sigma_next > 0, jnp.minimum(self.step + 1, highest), 1)

    def noise(self, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        """The step's unit noise."""
        return unit_noise(self.key, self.step, x)


def unit_noise(key: Keys, step: Array | int, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """Noise of a step; with a key for each image it does not depend on the other images."""
    if key.ndim == 0:
        return jax.random.normal(jax.random.fold_in(key, step), x.shape, x.dtype)
    return jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, step), x.shape[1:], x.dtype))(
        key
    )


def log_ratio(sigma: Array, sigma_next: Array) -> Array:
    """ln(sigma / sigma_next), kept finite where sigma_next is 0."""
    p = (sigma - sigma_next) / sigma
    far = -jnp.log(jnp.maximum(sigma_next / sigma, 1e-20))
    return jnp.where(p > 0.5, far, -jnp.log1p(-jnp.minimum(p, 0.5)))


def toward(
    x: Float[Array, "B ..."], D: Float[Array, "B ..."], q: Array, p: Array
) -> Float[Array, "B ..."]:
    """q x + p D for p = 1 - q; D itself, to the last bit, where q is 0.

    Args:
      p: as exact where it is small as q is where that is small.
    """
    # x + p (D - x) loses the least of x, q x + (1 - q) D of what little is left of it
    return jnp.where(q < 0.5, q * x + (1 - q) * D, x + p * (D - x))


def with_noise(x: Float[Array, "B ..."], std: Array, now: Now) -> Float[Array, "B ..."]:
    """Adds the step's noise of that standard deviation; none is drawn where it is 0."""
    return jax.lax.cond(std > 0, lambda: x + std * now.noise(x), lambda: x)


def history(count: int) -> Any:
    """Memory of `count` earlier arrays, newest first."""
    return lambda x_T: tuple(jnp.zeros_like(x_T) for _ in range(count))


def phi(k: int, h: Array) -> Array:
    """The k-th phi-function of exponential integrators at -h, for h > 0.

    phi_0 = exp(-h),  phi_k = (1 / (k - 1)! - phi_{k-1}) / h,  at 0 it is 1 / k!

    Source: Hochbruck & Ostermann 2010, "Exponential integrators", equation 2.10.
    """
    # below 1 the recursion loses digits, above it the series does; 20 terms are float64's digits
    small = jnp.minimum(h, 1.0)
    series = jnp.zeros_like(h)
    for j in reversed(range(20)):
        series = 1 / math.factorial(j + k) - small * series
    value = jnp.exp(-h)
    for j in range(k):
        value = (1 / math.factorial(j) - value) / jnp.maximum(h, 1.0)
    return jnp.where(h < 1, series, value)
