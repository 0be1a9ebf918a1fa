"""Preconditioning: makes a denoiser `denoise(x_t, sigma) -> x_0_hat` of a network.

D(x_t; sigma) = c_skip(sigma) x_t + c_out(sigma) F(c_in(sigma) x_t, c_noise(sigma))

A network with twice the channels of the images learns the variance of DDPM's steps too: the first
half of its output is F, the second half v interpolates the log-variance, see `variance`.

Source: Karras et al. 2022, arXiv:2206.00364, equation 7 and table 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Shaped

from diffusion.noise.schedules import Schedule, or_ddpm
from diffusion.ranges import demand

Network = Callable[..., Array]
"""Any function `network(params, x, c_noise, *, dropout_key=None, **cond)`."""

Sigma = Float[Array, ""] | Float[Array, "B"]
"""One sigma for the batch, or one for each image."""


@runtime_checkable
class Denoise(Protocol):
    """Estimates the clean images; samplers, guidance and editing use a network only through this.

    Args:
      x_t: noisy images x_0 + sigma * eps.
      sigma: noise level, one for the batch or one for each image.
    Returns:
      x_0_hat, an estimate of the posterior mean E[x_0 | x_t].
    """

    def __call__(self, x_t: Float[Array, "B ..."], sigma: Sigma) -> Float[Array, "B ..."]: ...


class Coefficients(NamedTuple):
    """The four coefficients of the preconditioning, one value per image."""

    c_skip: Float[Array, "B"]
    c_out: Float[Array, "B"]
    c_in: Float[Array, "B"]
    c_noise: Float[Array, "B"]


@dataclass(frozen=True)
class EDM:
    """The network's input and target have unit variance at every sigma.

    Attributes:
      sigma_data: standard deviation of the images in [-1, 1]; > 0.
    Source: Karras et al. 2022, arXiv:2206.00364, table 1.
    """

    sigma_data: float = 0.5

    def __post_init__(self):
        demand("(0, inf)", sigma_data=self.sigma_data)

    def __call__(self, sigma: Float[Array, "B"]) -> Coefficients:
        variance = sigma**2 + self.sigma_data**2
        return Coefficients(
            c_skip=self.sigma_data**2 / variance,
            c_out=sigma * self.sigma_data * jax.lax.rsqrt(variance),
            c_in=jax.lax.rsqrt(variance),
            c_noise=jnp.log(sigma) / 4,
        )


@dataclass(frozen=True)
class Eps:
    """DDPM's parametrisation: the network predicts the unit noise; c_noise is the timestep.

    x_0_hat = x_t - sigma * eps_hat

    Attributes:
      schedule: maps sigma to the timestep; None takes the recipe's schedule, and is DDPM's chain
        elsewhere.
    Source: Ho et al. 2020, arXiv:2006.11239, section 3.2; as a preconditioning Karras et al. 2022,
      table 1, column VP.
    """

    schedule: Schedule | None = None

    def __post_init__(self):
        if getattr(self.schedule, "zero_terminal_snr", False):
            raise ValueError(
                f"Eps on {self.schedule}: where nothing is left of the image, the noise does not "
                "determine it; use V or X0, or zero_terminal_snr=False."
            )

    def __call__(self, sigma: Float[Array, "B"]) -> Coefficients:
        return Coefficients(
            c_skip=jnp.ones_like(sigma),
            c_out=-sigma,
            c_in=jax.lax.rsqrt(1 + sigma**2),
            c_noise=or_ddpm(self.schedule).timestep(sigma),
        )


@dataclass(frozen=True)
class X0:
    """The network predicts the clean image; c_noise is the timestep.

    Attributes:
      schedule: maps sigma to the timestep; None takes the recipe's schedule, and is DDPM's chain
        elsewhere.
    Source: Ho et al. 2020, arXiv:2006.11239, section 3.2 (mentioned as an alternative).
    """

    schedule: Schedule | None = None

    def __call__(self, sigma: Float[Array, "B"]) -> Coefficients:
        return Coefficients(
            c_skip=jnp.zeros_like(sigma),
            c_out=jnp.ones_like(sigma),
            c_in=jax.lax.rsqrt(1 + sigma**2),
            c_noise=or_ddpm(self.schedule).timestep(sigma),
        )


@dataclass(frozen=True)
class V:
    """The network predicts v = (eps - sigma x_0) / sqrt(1 + sigma^2); c_noise is the timestep.

    In the notation of DDPM, v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0.

    Attributes:
      schedule: maps sigma to the timestep; None takes the recipe's schedule, and is DDPM's chain
        elsewhere.
    Source: Salimans & Ho 2022, arXiv:2202.00512, section 4 and appendix D.
    """

    schedule: Schedule | None = None

    def __call__(self, sigma: Float[Array, "B"]) -> Coefficients:
        rsqrt = jax.lax.rsqrt(1 + sigma**2)
        return Coefficients(
            c_skip=rsqrt**2,
            c_out=-sigma * rsqrt,
            c_in=rsqrt,
            c_noise=or_ddpm(self.schedule).timestep(sigma),
        )


@dataclass(frozen=True)
class Score:
    """NCSN++'s VE parametrisation: the network predicts sigma * score; c_noise is ln(sigma / 2).

    Source: Song et al. 2021, arXiv:2011.13456; as a preconditioning Karras et al. 2022, table 1,
      column VE.
    """

    def __call__(self, sigma: Float[Array, "B"]) -> Coefficients:
        ones = jnp.ones_like(sigma)
        return Coefficients(c_skip=ones, c_out=sigma, c_in=ones, c_noise=jnp.log(sigma / 2))


@dataclass(frozen=True)
class Velocity:
    """Flow matching: the network predicts the velocity eps - x_0; c_noise is 1000 t.

    Its input is z_t = (1 - t) x_0 + t eps = x_t / (1 + sigma), with t = sigma / (1 + sigma).

    Source: Lipman et al. 2022, arXiv:2210.02747; Liu et al. 2022, arXiv:2209.03003. Deviation: t is
      multiplied by 1000, the range that sinusoidal embeddings are designed for.
    """

    def __call__(self, sigma: Float[Array, "B"]) -> Coefficients:
        one_minus_t = 1 / (1 + sigma)
        t = sigma * one_minus_t
        return Coefficients(c_skip=one_minus_t, c_out=-t, c_in=one_minus_t, c_noise=1000 * t)


@dataclass(frozen=True)
class Consistency:
    """A consistency model: at sigma_min the estimate is x_t itself.

    c_skip = s^2 / ((sigma - sigma_min)^2 + s^2)
    c_out = (sigma - sigma_min) s / sqrt(sigma^2 + s^2)

    with s = sigma_data; c_noise is 250 ln(sigma).

    Attributes:
      sigma_data: standard deviation of the images in [-1, 1]; > 0.
      sigma_min: the smallest noise level of training; > 0.
    Source: Song et al. 2023, arXiv:2303.01469, appendix C; c_noise as in its code.
    """

    sigma_data: float = 0.5
    sigma_min: float = 0.002

    def __post_init__(self):
        demand("(0, inf)", sigma_data=self.sigma_data, sigma_min=self.sigma_min)

    def __call__(self, sigma: Float[Array, "B"]) -> Coefficients:
        variance, above = sigma**2 + self.sigma_data**2, sigma - self.sigma_min
        return Coefficients(
            c_skip=self.sigma_data**2 / (above**2 + self.sigma_data**2),
            c_out=above * self.sigma_data * jax.lax.rsqrt(variance),
            c_in=jax.lax.rsqrt(variance),
            c_noise=250 * jnp.log(sigma),
        )


def per_image(v: Shaped[Array, "B"], x: Shaped[Array, "B ..."]) -> Shaped[Array, "B ..."]:
    """Broadcasts (B,) against x: one value for each image."""
    return v.reshape(v.shape + (1,) * (x.ndim - 1))


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "cond"],
    meta_fields=["network", "preconditioning"],
)
@dataclass(frozen=True)
class Denoiser:
    """A network with its weights and conditions, as a function `denoise(x_t, sigma)`.

    It is a pytree, so its arrays are arguments of a compiled sampler: other weights or labels do
    not compile it again.
    """

    network: Network
    params: Any
    preconditioning: "Preconditioning"
    cond: dict[str, Any]

    def __call__(self, x_t: Float[Array, "B ..."], sigma: Sigma) -> Float[Array, "B ..."]:
        return self._estimates(x_t, sigma)[0]

    def with_variance(
        self, x_t: Float[Array, "B ..."], sigma: Sigma
    ) -> tuple[Float[Array, "B ..."], Float[Array, "B ..."]]:
        """(x_0_hat, interpolation of the step's log-variance), of a network that learns both.

        Raises:
          ValueError: the network predicts the mean alone.
        """
        x_0_hat, interpolation = self._estimates(x_t, sigma)
        if interpolation is None:
            raise ValueError(
                f"the network predicts {x_t.shape[-1]} channels, the mean alone; a learned "
                f"variance needs {2 * x_t.shape[-1]}, so give Ancestral an interpolation, such as "
                "0.0 or 1.0."
            )
        return x_0_hat, interpolation

    def _estimates(self, x_t: Array, sigma: Sigma) -> tuple[Array, Array | None]:
        sigma = jnp.broadcast_to(sigma, x_t.shape[:1])
        c_skip, c_out, c_in, c_noise = self.preconditioning(sigma)
        output = self.network(self.params, per_image(c_in, x_t) * x_t, c_noise, **self.cond)
        F, interpolation = mean_and_interpolation(output, x_t)
        return per_image(c_skip, x_t) * x_t + per_image(c_out, x_t) * F, interpolation


def mean_and_interpolation(
    output: Float[Array, "B ..."], x_t: Float[Array, "B ..."]
) -> tuple[Float[Array, "B ..."], Float[Array, "B ..."] | None]:
    """A network's output as F and (v + 1) / 2; None where it has no channels for v.

    Raises:
      ValueError: the output has neither the shape of the images nor twice their channels.
    Source: Nichol & Dhariwal 2021, arXiv:2102.09672, equation 15; v in [-1, 1] as in their code.
    """
    if output.shape == x_t.shape:
        return output, None
    *size, channels = x_t.shape
    if output.shape != (*size, 2 * channels):
        raise ValueError(
            f"the network's output is {output.shape}, but the images are {x_t.shape}; it needs "
            f"{channels} channels, or {2 * channels} where the variance is learned too."
        )
    F, v = jnp.split(output, 2, axis=-1)
    return F, (v + 1) / 2


def denoiser(
    network: Network, params: Any, preconditioning: "Preconditioning", **cond: Any
) -> Denoiser:
    """Makes `denoise(x_t, sigma) -> x_0_hat` of a network.

    Args:
      network: `network(params, x, c_noise, **cond)`, called without dropout.
      params: the network's weights, usually averaged ones.
      preconditioning: the one that the network was trained with.
      cond: further inputs of the network, such as label=(B,).
    """
    return Denoiser(network, params, preconditioning, cond)


Preconditioning = EDM | Eps | X0 | V | Score | Velocity | Consistency
