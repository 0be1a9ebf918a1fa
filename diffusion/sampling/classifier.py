"""Classifier guidance: the gradient of a classifier's log-probability leads the samples to a class.

    log_p = dm.log_probability(classifier, params, preconditioning, label)
    denoise = dm.classifier_guided(denoise, log_p, scale=1.0)

Source: Dhariwal & Nichol 2021, arXiv:2105.05233, section 4.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Integer

from diffusion.adjusted import Adjusted
from diffusion.denoiser import Denoise, Network, Preconditioning, Sigma, per_image
from diffusion.ranges import demand


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class ClassifierGuided(Adjusted):
    """See `classifier_guided`."""

    denoise: Denoise
    log_p: Callable
    scale: Any

    def adjust(self, x_0_hat, x_t, sigma):
        gradient = jax.grad(lambda x: self.log_p(x, sigma).sum())(x_t)
        variance = per_image(jnp.broadcast_to(sigma, x_t.shape[:1]) ** 2, x_t)
        return x_0_hat + self.scale * variance * gradient


def classifier_guided(denoise: Denoise, log_p: Callable, scale: float = 1.0) -> Denoise:
    """Adds the gradient of a log-probability: D + scale sigma^2 grad log p(y | x_t; sigma).

    Args:
      log_p: log_p(x_t, sigma) -> (B,), the log-probability of the condition y given each noisy
        image, such as `log_probability` gives. As `jax.tree_util.Partial(f, params)`, new params
        of a function compile nothing.
      scale: 1 samples from the product of both distributions.
    Source: Dhariwal & Nichol 2021, arXiv:2105.05233, section 4.
    """
    demand("(-inf, inf)", scale=scale)
    return ClassifierGuided(denoise, log_p, scale)


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["params", "label"],
    meta_fields=["classifier", "preconditioning"],
)
@dataclass(frozen=True)
class LogProbability:
    """See `log_probability`."""

    classifier: Network
    params: Any
    preconditioning: Preconditioning
    label: Any

    def __call__(self, x_t: Float[Array, "B ..."], sigma: Sigma) -> Float[Array, "B"]:
        sigma = jnp.broadcast_to(sigma, x_t.shape[:1])
        _, _, c_in, c_noise = self.preconditioning(sigma)
        logits = self.classifier(self.params, per_image(c_in, x_t) * x_t, c_noise)
        label = jnp.broadcast_to(jnp.asarray(self.label, jnp.int32), x_t.shape[:1])
        is_class = (label >= 0) & (label < logits.shape[-1])
        chosen = jnp.take_along_axis(jax.nn.log_softmax(logits), label[:, None], axis=1)[:, 0]
        return jnp.where(is_class, chosen, jnp.nan)


def log_probability(
    classifier: Network,
    params: Any,
    preconditioning: Preconditioning,
    label: Integer[Array, "B"] | int,
) -> Callable:
    """Makes log_p(x_t, sigma) -> (B,), the log-probability of a class given each noisy image.

    It is a pytree: other weights and labels compile nothing.

    Args:
      classifier: `classifier(params, x, c_noise) -> logits (B, K)`, trained on noisy images.
      params: the classifier's weights.
      preconditioning: the one that it was trained with; only c_in and c_noise are used.
      label: class of each image, or one for all; at the call, one that is no class gives NaN.
    Raises:
      ValueError: a label below 0.
    """
    demand("[0, inf)", label=label)
    return LogProbability(classifier, params, preconditioning, label)
