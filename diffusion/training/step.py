"""The training step of denoisers."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Integer, Key

from diffusion.denoiser import Network, Preconditioning
from diffusion.noise.distributions import Noise
from diffusion.noise.importance import remembering
from diffusion.training.augment import Augment, Batch, Unchanged
from diffusion.training.condition_dropout import drop_conditions
from diffusion.training.coupling import Coupling, Independent
from diffusion.training.ema import Average
from diffusion.training.loss import LossUncertainty, NoUncertainty, Simple, loss
from diffusion.training.update import Objective, TrainStep, make_update
from diffusion.training.variance import FixedVariance, Variance


def drop_label(key: Key[Array, ""], label: Integer[Array, "B"], rate: float) -> Int[Array, "B"]:
    """Replaces each label by the null class -1 with probability `rate`, one image at a time."""
    # an unsigned type has no -1; what lies beyond int32 stays a number that is no class
    label = jnp.asarray(label)
    largest = min(jnp.iinfo(label.dtype).max, jnp.iinfo(jnp.int32).max)
    label = jnp.minimum(label, jnp.asarray(largest, label.dtype)).astype(jnp.int32)
    return jnp.where(jax.random.bernoulli(key, jnp.float32(rate), label.shape), -1, label)


LEVELS = (0.1, 1.0, 10.0)
"""The loss is also reported for sigma below, between and above these values."""


def make_train_step(
    network: Network,
    preconditioning: Preconditioning,
    noise: Noise,
    optimizer: optax.GradientTransformation,
    ema: Average,
    *,
    weighting: Callable[[Array, Array], Array] = Simple(),  # noqa: B008 (frozen)
    variance: Variance = FixedVariance(),  # noqa: B008 (frozen)
    uncertainty: LossUncertainty = NoUncertainty(),  # noqa: B008 (frozen)
    coupling: Coupling = Independent(),  # noqa: B008 (frozen)
    label_dropout: float = 0.0,
    text_dropout: float = 0.0,
    condition_dropout: float = 0.0,
    augment: Augment = Unchanged(),  # noqa: B008 (frozen)
    accumulate: int = 1,
    project: Callable[[Any], Any] | None = None,
) -> TrainStep:
    """Makes `train_step(state, batch, key) -> (state, metrics)`, jitted.

    The state passed in is donated: use the one returned. `key` is the run's key; the step's own
    randomness is a function of it and state.step, so every call may pass the same key.

    A step whose loss or gradient is not finite is skipped: it changes only state.step. With a
    finite gradient the weights can still overflow if the learning rate is far too large; then
    "weight_norm" is not finite.

    Args:
      network: `network(params, x, c_noise, *, dropout_key, **cond)`; cond is the batch without its
        image.
      preconditioning: defines what the network predicts.
      noise: distribution of sigma, `noise(key, (B,)) -> sigma`; one with memory, such as
        `ImportanceSampled`, must be that with which the state was made.
      optimizer: an optax transformation; `update` receives `grad_norm`, see `clip_by_grad_norm`,
        and the loss as `value`, which `optax.contrib.reduce_on_plateau` needs.
      ema: averages of the weights.
      weighting: `weighting(sigma, c_out) -> factor` of the loss.
      variance: whether the network learns the variance of DDPM's steps too, by `LearnedVariance`.
      uncertainty: learned scale of the loss by noise level; the state must be made with the same.
      coupling: how images are paired with noise.
      label_dropout: fraction of labels replaced by the null class, in [0, 1]; classifier-free
        guidance needs it above 0.
      text_dropout, condition_dropout: fraction of texts and of conditioning images that are left
        out, in [0, 1], see `drop_conditions`.
      augment: `augment(key, batch) -> batch`.
      accumulate: number of parts into which the batch is split; they are computed one after the
        other to save memory. The gradient is that of the whole batch, except for dropout masks.
      project: `project(params) -> params`, applied after each update, such as EDM2's weight
        normalisation; None for none.
    Returns:
      train_step. Its metrics are float32: "loss" (weighted, but without the learned uncertainty, so
      that runs can be compared), "grad_norm" (before clipping), "weight_norm" (after the step),
      "skipped" (1 if loss or gradient was not finite, else 0), and "level_sums" and "level_counts"
      (sum of the losses and number of images in each interval of sigma that `LEVELS` bounds).
    """

    distribution = remembering(noise)

    def draw(batch: Batch, memory: dict[str, Array], keys: list[Array]) -> dict[str, Any]:
        augment_key, label_key, sigma_key, eps_key = keys
        cond = dict(augment(augment_key, batch))
        x_0 = cond.pop("image")
        if "label" in cond and label_dropout > 0:
            cond["label"] = drop_label(label_key, cond["label"], label_dropout)
        drop_key = jax.random.fold_in(label_key, 1)
        cond = drop_conditions(drop_key, cond, text=text_dropout, image=condition_dropout)
        eps = coupling(x_0, jax.random.normal(eps_key, x_0.shape, jnp.float32))
        drawn = distribution.draw(memory, sigma_key, x_0.shape[:1])
        return {"x_0": x_0, "drawn": drawn, "eps": eps, "cond": cond}

    def mean_loss(
        params: Any, learned: Any, inputs: dict[str, Any], dropout_key: Array
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        drawn = inputs["drawn"]
        losses = loss(
            network,
            params,
            preconditioning,
            inputs["x_0"],
            drawn.sigma,
            inputs["eps"],
            weighting=weighting,
            variance=variance,
            dropout_key=dropout_key,
            **inputs["cond"],
        )
        objective = uncertainty(learned, drawn.sigma, losses)
        return (drawn.weight * objective).mean(), {"loss": losses}

    def remember(
        memory: dict[str, Array], inputs: dict[str, Any], parts: dict[str, Array]
    ) -> dict[str, Array]:
        return distribution.update(memory, inputs["drawn"], parts["loss"])

    def metrics(inputs: dict[str, Any], parts: dict[str, Array]) -> dict[str, Array]:
        drawn, losses = inputs["drawn"], parts["loss"]
        level = jnp.searchsorted(jnp.array(LEVELS, jnp.float32), drawn.sigma)
        is_of_level = level[:, None] == jnp.arange(len(LEVELS) + 1)[None]  # (B, levels)
        return {
            "loss": (drawn.weight * losses).mean(),
            "level_sums": jnp.where(is_of_level, losses[:, None], jnp.float32(0)).sum(0),
            "level_counts": is_of_level.sum(0, dtype=jnp.float32),
        }

    objective = Objective(draw, mean_loss, remember, metrics)
    return make_update(objective, optimizer, ema, accumulate=accumulate, project=project)
