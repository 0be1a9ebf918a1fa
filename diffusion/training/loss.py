"""The loss: squared error of the raw network output F against its target, times a weighting.

target = (x_0 - c_skip x_t) / c_out,  so  (F - target)^2 = (x_0_hat - x_0)^2 / c_out^2

A weighting is `weighting(sigma, c_out) -> factor` on (F - target)^2. Papers define their weightings
on the error of x_0, eps or v; the classes below convert them by c_out, so that a weighting means
the same whatever the network predicts.

With `Eps` the target is eps, and the loss is DDPM's L_simple; with `EDM` it is EDM's weighted loss.

Source: Karras et al. 2022, arXiv:2206.00364, equation 8.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffusion.denoiser import (
    Network,
    Preconditioning,
    mean_and_interpolation,
    per_image,
)
from diffusion.keys import demand_key
from diffusion.pixels import check_image
from diffusion.ranges import demand
from diffusion.training.variance import FixedVariance, Variance


@dataclass(frozen=True)
class Simple:
    """Weight 1 on (F - target)^2: with Eps L_simple, with EDM and Velocity the papers' losses."""

    def __call__(self, sigma: Float[Array, "B"], c_out: Float[Array, "B"]) -> Float[Array, "B"]:
        return jnp.ones_like(sigma)


@dataclass(frozen=True)
class EDMWeighting:
    """(sigma^2 + sigma_data^2) / (sigma sigma_data)^2 on x_0; equals `Simple` with the EDM target.

    Attributes:
      sigma_data: standard deviation of the images in [-1, 1], > 0; None takes the value of the
        preconditioning in a recipe, and is 0.5 elsewhere.
    Source: Karras et al. 2022, arXiv:2206.00364, table 1.
    """

    sigma_data: float | None = None

    def __post_init__(self):
        if self.sigma_data is not None:
            demand("(0, inf)", sigma_data=self.sigma_data)

    def __call__(self, sigma: Float[Array, "B"], c_out: Float[Array, "B"]) -> Float[Array, "B"]:
        sigma_data = 0.5 if self.sigma_data is None else self.sigma_data
        return (c_out**2) * (sigma**2 + sigma_data**2) / (sigma * sigma_data) ** 2


@dataclass(frozen=True)
class MinSNR:
    """min(SNR, gamma) on x_0, with SNR = 1 / sigma^2; noise levels are learned at similar speed.

    On eps it is min(SNR, gamma) / SNR, on v min(SNR, gamma) / (SNR + 1).

    Attributes:
      gamma: upper bound of the weight; > 0.
      is_soft: whether the bound is smooth: SNR gamma / (SNR + gamma).
    Source: Hang et al. 2023, arXiv:2303.09556, equation 5; the soft bound is from Crowson et al.
      2024, arXiv:2401.11605, section 4.
    """

    gamma: float = 5.0
    is_soft: bool = False

    def __post_init__(self):
        demand("(0, inf)", gamma=self.gamma)

    def __call__(self, sigma: Float[Array, "B"], c_out: Float[Array, "B"]) -> Float[Array, "B"]:
        snr = 1 / sigma**2
        if self.is_soft:
            return c_out**2 * self.gamma / (1 + self.gamma * sigma**2)
        return c_out**2 * jnp.minimum(snr, self.gamma)


@dataclass(frozen=True)
class P2:
    """SNR / (k + SNR)^gamma on x_0: less weight on low noise, where only fine detail is missing.

    Attributes:
      gamma: strength, >= 0; 0 is DDPM's L_simple.
      k: about the SNR above which the weight on eps falls, > 0.
    Source: Choi et al. 2022, arXiv:2204.00227, equation 8 (on eps: 1 / (k + SNR)^gamma).
    """

    gamma: float = 1.0
    k: float = 1.0

    def __post_init__(self):
        demand("[0, inf)", gamma=self.gamma)
        demand("(0, inf)", k=self.k)

    def __call__(self, sigma: Float[Array, "B"], c_out: Float[Array, "B"]) -> Float[Array, "B"]:
        snr = 1 / sigma**2
        return (c_out / sigma) ** 2 * (self.k + snr) ** -self.gamma


@dataclass(frozen=True)
class Sigmoid:
    """sigmoid(bias - log SNR) on eps: the ELBO's weight, reduced at low noise.

    Attributes:
      bias: log SNR at which the weight is one half.
    Source: Kingma & Gao 2023, arXiv:2303.00848, section 4; Hoogeboom et al. 2024, arXiv:2410.19324,
      section 3.
    """

    bias: float = -1.0

    def __post_init__(self):
        demand("(-inf, inf)", bias=self.bias)

    def __call__(self, sigma: Float[Array, "B"], c_out: Float[Array, "B"]) -> Float[Array, "B"]:
        return (c_out / sigma) ** 2 * jax.nn.sigmoid(self.bias + 2 * jnp.log(sigma))


Weighting = Simple | EDMWeighting | MinSNR | P2 | Sigmoid


@dataclass(frozen=True)
class NoUncertainty:
    """Leaves the losses as they are."""

    def init(self) -> dict[str, Array]:
        return {}

    def __call__(
        self, learned: dict[str, Array], sigma: Float[Array, "B"], loss: Float[Array, "B"]
    ) -> Float[Array, "B"]:
        return loss


@dataclass(frozen=True)
class Uncertainty:
    """Learns the size of the loss at each noise level, and divides by it, to balance the levels.

    loss / exp(u(sigma)) + u(sigma),  least where u is the logarithm of the mean loss at sigma

    u is linear in random Fourier features of ln(sigma) / 4, starts at 0, and is not used in
    sampling.

    Attributes:
      num_features: number of Fourier features.
    Source: Karras et al. 2023, arXiv:2312.02696, equation 21 and appendix B.2; Kendall et al. 2018,
      arXiv:1705.07115. Deviation: the weights are not normalised to unit magnitude.
    """

    num_features: int = 128

    def __post_init__(self):
        demand("[1, inf)", num_features=self.num_features)

    def init(self) -> dict[str, Array]:
        """The learned parameters, before training."""
        return {"kernel": jnp.zeros(self.num_features, jnp.float32)}

    def log_loss(self, learned: dict[str, Array], sigma: Float[Array, "B"]) -> Float[Array, "B"]:
        """u(sigma)."""
        rng = np.random.default_rng(0)  # a fixed seed: the features are constants
        frequency = jnp.asarray(2 * np.pi * rng.standard_normal(self.num_features), jnp.float32)
        phase = jnp.asarray(2 * np.pi * rng.random(self.num_features), jnp.float32)
        c_noise = jnp.log(sigma)[:, None] / 4
        features = jnp.sqrt(2.0) * jnp.cos(c_noise * frequency[None] + phase[None])
        return features @ learned["kernel"] / math.sqrt(self.num_features)

    def __call__(
        self, learned: dict[str, Array], sigma: Float[Array, "B"], loss: Float[Array, "B"]
    ) -> Float[Array, "B"]:
        u = self.log_loss(learned, sigma)
        return loss / jnp.exp(u) + u


LossUncertainty = NoUncertainty | Uncertainty


def loss(
    network: Network,
    params: Any,
    preconditioning: Preconditioning,
    x_0: Float[Array, "B ..."],
    sigma: Float[Array, "B"],
    eps: Float[Array, "B ..."],
    *,
    weighting: Callable[[Array, Array], Array] = Simple(),  # noqa: B008 (frozen)
    variance: Variance = FixedVariance(),  # noqa: B008 (frozen)
    **cond: Any,
) -> Float[Array, "B"]:
    """Loss of each image, as a mean over its pixels.

    Args:
      network: `network(params, x, c_noise, **cond)`.
      params: the network's weights.
      preconditioning: defines what the network predicts.
      x_0: clean images in [-1, 1].
      sigma: noise level of each image, > 0.
      eps: unit noise.
      weighting: `weighting(sigma, c_out) -> factor` of each image's loss.
      variance: whether the network learns the variance of DDPM's steps too.
      cond: further inputs of the network, such as label and dropout_key.
    Raises:
      ValueError: images of integers; a dropout_key of the old kind; the network's output has other
        channels than `variance` needs.
    """
    check_image("x_0", x_0)
    if cond.get("dropout_key") is not None:
        demand_key(cond["dropout_key"])
    x_t = x_0 + per_image(sigma, x_0) * eps
    c_skip, c_out, c_in, c_noise = preconditioning(sigma)
    target = (x_0 - per_image(c_skip, x_0) * x_t) / per_image(c_out, x_0)
    output = network(params, per_image(c_in, x_t) * x_t, c_noise, **cond)
    F, interpolation = mean_and_interpolation(output, x_t)
    if variance.outputs != (1 if interpolation is None else 2):
        raise ValueError(
            f"the network predicts {output.shape[-1]} channels, but variance="
            f"{type(variance).__name__} needs {variance.outputs * x_0.shape[-1]} for images of "
            f"{x_0.shape[-1]}; use "
            + ("LearnedVariance." if variance.outputs == 1 else "FixedVariance, or twice as many.")
        )
    error = jnp.square(F - target).mean(range(1, x_0.ndim))
    simple = weighting(sigma, c_out) * error
    x_0_hat = per_image(c_skip, x_0) * x_t + per_image(c_out, x_0) * F
    return variance(simple, x_0, x_0_hat, cast(Any, interpolation), sigma)
