"""Whether the network learns the variance of DDPM's steps, and by which loss.

`variance(simple, x_0, x_0_hat, interpolation, sigma) -> loss` of each image, where `simple` is the
weighted squared error of the mean. `outputs` is the number of values that the network predicts for
each value of the image.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.denoiser import per_image
from diffusion.noise import timesteps
from diffusion.noise.schedules import Schedule
from diffusion.ranges import demand
from diffusion.variance import decoder_nats, step_nats


@dataclass(frozen=True)
class FixedVariance:
    """The network predicts the mean alone; samplers state the variance."""

    outputs = 1

    def __call__(
        self, simple: Float[Array, "B"], x_0: Any, x_0_hat: Any, interpolation: Any, sigma: Any
    ) -> Float[Array, "B"]:
        return simple


@dataclass(frozen=True)
class LearnedVariance:
    """The network predicts the interpolation of each step's log-variance too.

    L_hybrid = L_simple + weight L_vlb,  L_vlb = T E_t[L_t]

    L_t is the divergence of the step from timestep t to t - 1 from the posterior, at t = 0 the cost
    of the pixels, in bits for each value of the image. L_vlb trains the interpolation alone: its
    mean is stopped. The noise distribution should draw the timesteps uniformly.

    Attributes:
      schedule: the chain whose steps are measured; None takes the recipe's schedule, and is DDPM's
        chain elsewhere.
      num_timesteps: T, at evenly spaced times of the schedule, >= 2; None is the chain's number.
      weight: of L_vlb, >= 0.
      bound_alone: whether the loss is L_vlb alone, which then trains the mean as well.
    Raises:
      ValueError: a value outside its range; a number of timesteps that is not the chain's, or that
        is missing where the schedule is no chain.
    Source: Nichol & Dhariwal 2021, arXiv:2102.09672, section 3.1 and equations 15 and 16. Their
      code's factor T / 1000 of a step's bits is this weight of 0.001. Deviation: where the noise
      distribution draws a sigma between two timesteps, the step from it is as long as theirs.
    """

    schedule: Schedule | None = None
    num_timesteps: int | None = None
    weight: float = 0.001
    bound_alone: bool = False
    outputs = 2

    def __post_init__(self):
        demand("[0, inf)", weight=self.weight)
        timesteps.check_length(self.schedule, self.num_timesteps)

    @property
    def table(self) -> Float[np.ndarray, "T"]:
        """sigma of each timestep, ascending, float64."""
        return timesteps.table(self.schedule, self.num_timesteps)

    def __call__(
        self,
        simple: Float[Array, "B"],
        x_0: Float[Array, "B ..."],
        x_0_hat: Float[Array, "B ..."],
        interpolation: Float[Array, "B ..."],
        sigma: Float[Array, "B"],
    ) -> Float[Array, "B"]:
        if self.bound_alone:
            return self.bound(x_0, x_0_hat, interpolation, sigma)
        stopped = jax.lax.stop_gradient(x_0_hat)
        return simple + self.weight * self.bound(x_0, stopped, interpolation, sigma)

    def bound(
        self,
        x_0: Float[Array, "B ..."],
        x_0_hat: Float[Array, "B ..."],
        interpolation: Float[Array, "B ..."],
        sigma: Float[Array, "B"],
    ) -> Float[Array, "B"]:
        """T times the cost of each image's step in bits per dimension; in the mean L_vlb."""
        table = self.table
        lengths = np.diff(np.log(table), prepend=np.nan).astype(
            np.float32
        )  # of steps, in ln(sigma)
        lengths[0] = lengths[1]  # the first timestep's variance is bounded by the second's
        index = np.arange(len(table), dtype=np.float32)
        at = jnp.interp(jnp.log(sigma), np.log(table).astype(np.float32), index)
        h = jnp.interp(at, index, lengths)
        is_first = at < 0.5
        q, p = (per_image(v, x_0) for v in (jnp.exp(-h), -jnp.expm1(-h)))
        # at other timesteps the decoder's terms are not used, but their gradients must be finite
        lowest = per_image(jnp.where(is_first, sigma, np.float32(table[0])), x_0)
        nats = jnp.where(
            per_image(is_first, x_0),
            decoder_nats(x_0, x_0_hat, interpolation, lowest, p),
            step_nats(x_0, x_0_hat, interpolation, per_image(sigma, x_0), q, p),
        )
        return len(table) * nats.mean(range(1, x_0.ndim)) / np.float32(np.log(2))


Variance = FixedVariance | LearnedVariance
