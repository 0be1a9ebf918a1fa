"""Where a step stands on the grid, and the first-order step that every sampler builds on.

If the estimate D of the clean image is constant during a step, the probability-flow ODE takes x to

x_next = q x + p D,  q = sigma_next / sigma,  p = 1 - q

Higher orders replace D by a better estimate. Rounding errors add up over a thousand steps, so p and
h = -ln(q) are computed without cancellation, and a sampler corrects D rather than x: a small
correction that is added to x itself would be rounded away.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffusion.sampling.unit_noise import Keys, unit_noise


class StepContext(NamedTuple):
    """What a sampler's `step` knows besides x: the grid, its place there, and the key.

    Attributes:
      step: its number, from 0.
      sigmas: the grid, padded; the step goes from sigmas[step] to sigmas[step + 1].
      num_steps: number of steps of the whole grid.
      key: one for the batch or one for each image.
      given_noise: unit noise to use in place of the key's, of the shape of x; where a step draws
        several, stacked on a first axis.
    """

    step: Int[Array, ""]
    sigmas: Float[Array, "S"]
    num_steps: Int[Array, ""]
    key: Keys
    given_noise: Any = None

    @property
    def sigma(self) -> Float[Array, ""]:
        """sigma of x, before the step."""
        return self.sigmas[self.step]

    @property
    def sigma_next(self) -> Float[Array, ""]:
        """sigma of x after the step."""
        return self.sigmas[self.step + 1]

    @property
    def q(self) -> Float[Array, ""]:
        """sigma_next / sigma, the weight of x; 0 on the step to sigma = 0."""
        return self.sigma_next / self.sigma

    @property
    def p(self) -> Float[Array, ""]:
        """1 - q, the weight of D, to full precision where q is near 1."""
        return (self.sigma - self.sigma_next) / self.sigma

    @property
    def h(self) -> Float[Array, ""]:
        """ln(sigma / sigma_next), the step in -ln(sigma); large but finite if sigma_next is 0."""
        return log_ratio(self.sigma, self.sigma_next)

    def earlier_sigma(self, steps: int) -> Float[Array, ""]:
        """sigma that many steps ago; the grid's first sigma if there were fewer steps."""
        return self.sigmas[jnp.maximum(self.step - steps, 0)]

    def earlier_h(self, count: int) -> list[Float[Array, ""]]:
        """h of the last `count` steps, the latest first; 1 for steps before the first."""
        hs = [
            log_ratio(self.earlier_sigma(ago + 1), self.earlier_sigma(ago)) for ago in range(count)
        ]
        return [jnp.where(h > 0, h, 1.0) for h in hs]

    def available_order(self, highest: int) -> Int[Array, ""]:
        """The number of estimates so far, at most `highest`; 1 on the step to sigma = 0."""
        return jnp.where(self.sigma_next > 0, jnp.minimum(self.step + 1, highest), 1)

    def trusted_order(self, highest: int, max_ratio: Array | float) -> Int[Array, ""]:
        """The available order, lowered where the step is too long for a polynomial in ln(sigma).

        A polynomial through earlier estimates that is followed much further than they lie apart
        misleads, as on the step from timestep 53 to 0 of a grid of 20 timesteps of DDPM.

        Args:
          highest: 2 or 3.
          max_ratio: order 2 needs h <= max_ratio * (h of the step before); order 3 needs
            3/4 max_ratio for this step and for the one before, and h <= max_ratio / 2. Infinite
            lowers nothing.
        """
        h, *earlier = self.h, *self.earlier_h(highest - 1)
        trusted = jnp.where(h <= max_ratio * earlier[0], 2, 1)
        if highest == 3:
            even = (h <= 0.75 * max_ratio * earlier[0]) & (
                earlier[0] <= 0.75 * max_ratio * earlier[1]
            )
            trusted = jnp.where(even & (h <= max_ratio / 2), 3, trusted)
        return jnp.minimum(trusted, self.available_order(highest))

    def noise(self, x: Float[Array, "B ..."], part: int = 0) -> Float[Array, "B ..."]:
        """The unit noise of this step; further parts are independent draws of the same step."""
        if self.given_noise is not None:
            several = self.given_noise.ndim > x.ndim
            return self.given_noise[part] if several else self.given_noise
        return unit_noise(self.key, self.step, x, part)

    def add_noise(
        self, x: Float[Array, "B ..."], std: Array, part: int = 0
    ) -> Float[Array, "B ..."]:
        """x plus this step's noise times std; nothing is drawn where std is 0."""
        return jax.lax.cond(std > 0, lambda: x + std * self.noise(x, part), lambda: x)

    def is_long(self, q: Array, max_ratio: Array | float) -> Array:
        """Whether a second-order rule in sigma is worse than Euler's on a step to q sigma.

        It divides sigma by more than max_ratio and ends above sigma = 1, where D changes as
        1 / sigma; or by more than max_ratio^2 from a sigma above 1. EDM's grids have no such step
        from 4 steps on; those of flows, and grids that are even in sigma, do.
        """
        ends_above, starts_above = self.sigma_next > 1, self.sigma > 1
        return ((q * max_ratio < 1) & ends_above) | ((q * max_ratio**2 < 1) & starts_above)


def interpolate(
    x: Float[Array, "B ..."], D: Float[Array, "B ..."], q: Array, p: Array
) -> Float[Array, "B ..."]:
    """q x + p D where p = 1 - q; exactly D where q is 0.

    Args:
      q: weight of x, to full precision where it is small.
      p: weight of D, to full precision where it is small, such as `StepContext.p`.
    """
    # for p near 0 the left form rounds x, for q near 0 the right one rounds what is left of x
    return jnp.where(q < 0.5, q * x + (1 - q) * D, x + p * (D - x))


def split_noise(eta: Array | float, q: Array, p: Array) -> tuple[Array, Array]:
    """The new and the kept share of the noise at sigma_next, in standard deviation.

    new = eta sqrt(1 - q^2),  kept = sqrt(1 - new^2);  0 and 1 where sigma rises, as in inversion

    Args:
      eta: in [0, 1]; 1 draws as much new noise as DDPM's sampler with its small variance.
      q: sigma_next / sigma.
      p: 1 - q, to full precision.
    """
    new = eta * jnp.sqrt(jnp.maximum(p * (1 + q), 0.0))
    # 1 - new^2 would be below 0 by rounding where q is tiny
    return new, jnp.sqrt(1 - eta**2 + (eta * jnp.minimum(q, 1.0)) ** 2)


def log_ratio(sigma: Array, sigma_next: Array) -> Array:
    """ln(sigma / sigma_next); large but finite where sigma_next is 0."""
    p = (sigma - sigma_next) / sigma
    large = -jnp.log(jnp.maximum(sigma_next / sigma, 1e-20))
    return jnp.where(p > 0.5, large, -jnp.log1p(-jnp.minimum(p, 0.5)))
