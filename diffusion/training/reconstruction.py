"""The training step of autoencoders: reconstruct an image from a Gaussian latent.

Source: Rombach et al. 2022, arXiv:2112.10752, section 3.1 and appendix G.
"""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from diffusion.training.augment import Augment, Batch, Unchanged
from diffusion.training.ema import Average
from diffusion.training.update import Objective, TrainStep, make_update

AutoencoderNetwork = Callable[..., tuple[Array, Array, Array]]
"""`network(params, image, key) -> (x_0_hat, mean, log_variance)`, see `unet_flax.Autoencoder`."""

Perceptual = Callable[[Float[Array, "B H W C"], Float[Array, "B H W C"]], Float[Array, "B"]]
"""A distance of images in [-1, 1], pair by pair, such as LPIPS."""


def kl_divergence(
    mean: Float[Array, "B *latent"], log_variance: Float[Array, "B *latent"]
) -> Float[Array, "B"]:
    """KL divergence of each image's latent from unit noise, in nats.

    KL(N(m, e^s) || N(0, 1)) = (m^2 + e^s - 1 - s) / 2,  summed over the values of the latent

    Source: Kingma & Welling 2014, arXiv:1312.6114, appendix B.
    """
    # expm1: e^s - 1 - s would lose all digits near s = 0
    each = (jnp.square(mean) + jnp.expm1(log_variance) - log_variance) / 2
    return each.sum(tuple(range(1, each.ndim)))


def make_reconstruction_step(
    network: AutoencoderNetwork,
    optimizer: optax.GradientTransformation,
    ema: Average,
    *,
    kl_weight: float = 1e-6,
    perceptual_weight: float = 0.0,
    perceptual: Perceptual | None = None,
    augment: Augment = Unchanged(),  # noqa: B008 (frozen)
    accumulate: int = 1,
) -> TrainStep:
    """Makes `train_step(state, batch, key) -> (state, metrics)`, jitted; see `make_train_step`.

      loss = mean |x_0_hat - x_0| + kl_weight KL / n + perceptual_weight perceptual(x_0_hat, x_0)

    of an image x_0 of n values, with x_0_hat decoded from a random latent, and KL the divergence of
    its distribution from unit noise, see `kl_divergence`.

    Args:
      network: `network(params, image, key) -> (x_0_hat, mean, log_variance)`.
      optimizer, ema, augment, accumulate: see `make_train_step`.
      kl_weight: >= 0.
      perceptual_weight: >= 0; above 0 it needs `perceptual`.
      perceptual: distance of two batches of images.
    Returns:
      train_step. Its metrics are "loss", "reconstruction" (mean |x_0_hat - x_0|), "kl" (nats an
      image), "perceptual" if there is one, "grad_norm", "weight_norm" and "skipped".
    Raises:
      ValueError: perceptual_weight without `perceptual`.
    Source: Rombach et al. 2022, arXiv:2112.10752, appendix G, with kl_weight 1e-6 and
      perceptual_weight 1. Deviation: neither its discriminator nor its learned scale of the loss.
    """
    if perceptual_weight and perceptual is None:
        raise ValueError(f"perceptual_weight={perceptual_weight} needs a perceptual distance.")

    def draw(batch: Batch, memory: Any, keys: list[Array]) -> Array:
        return augment(keys[0], batch)["image"]

    def losses(
        params: Any, learned: Any, x_0: Array, key: Array
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        x_0_hat, mean, log_variance = network(params, x_0, key)
        parts = {
            "reconstruction": jnp.abs(x_0_hat - x_0).mean((1, 2, 3)),
            "kl": kl_divergence(mean, log_variance),
        }
        loss = parts["reconstruction"] + kl_weight * parts["kl"] / x_0[0].size
        if perceptual is not None and perceptual_weight:
            parts["perceptual"] = perceptual(x_0_hat, x_0)
            loss = loss + perceptual_weight * parts["perceptual"]
        return loss.mean(), parts | {"loss": loss}

    def remember(memory: Any, x_0: Array, parts: dict[str, Array]) -> Any:
        return memory

    def metrics(x_0: Array, parts: dict[str, Array]) -> dict[str, Array]:
        return {name: values.mean() for name, values in parts.items()}

    objective = Objective(draw, losses, remember, metrics)
    return make_update(objective, optimizer, ema, accumulate=accumulate)
