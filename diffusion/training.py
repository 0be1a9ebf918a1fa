"""The training state and the step that advances it: pure, jitted, donated."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Key

from diffusion.augment import Augment, Batch, Unchanged
from diffusion.coupling import Coupling, Independent
from diffusion.denoiser import Network, Preconditioning
from diffusion.ema import Average
from diffusion.loss import Balance, Certain, Simple, loss
from diffusion.noise import Noise


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "params", "opt_state", "ema", "balance"],
    meta_fields=[],
)
@dataclass(frozen=True)
class TrainState:
    """All that training must remember; batch and randomness are functions of (seed, step).

    Attributes:
      step: optimiser steps done, int32 scalar.
      params: the weights.
      opt_state: optax's state.
      ema: averaged weights, from which to sample; `ema.choose` where there are several.
      balance: what the loss itself has learned, see `Uncertainty`.
    """

    step: Any
    params: Any
    opt_state: Any
    ema: Any
    balance: Any

    @classmethod
    def create(
        cls,
        params: Any,
        optimizer: optax.GradientTransformation,
        ema: Average,
        balance: Balance = Certain(),  # noqa: B008 (frozen)
    ) -> "TrainState":
        """The state before the first step."""
        learned = balance.init()
        opt_state = optimizer.init((params, learned))
        return cls(jnp.zeros((), jnp.int32), params, opt_state, ema.init(params), learned)


TrainStep = Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Array]]]


def drop_label(key: Key[Array, ""], label: Int[Array, "B"], rate: float) -> Int[Array, "B"]:
    """Replaces each label by the null class -1 with probability `rate`, one image at a time."""
    return jnp.where(jax.random.bernoulli(key, rate, label.shape), -1, label)


def make_train_step(
    network: Network,
    preconditioning: Preconditioning,
    noise: Noise,
    optimizer: optax.GradientTransformation,
    ema: Average,
    *,
    weighting: Callable[[Array, Array], Array] = Simple(),  # noqa: B008 (frozen)
    balance: Balance = Certain(),  # noqa: B008 (frozen)
    coupling: Coupling = Independent(),  # noqa: B008 (frozen)
    label_dropout: float = 0.0,
    augment: Augment = Unchanged(),  # noqa: B008 (frozen)
) -> TrainStep:
    """Makes `train_step(state, batch, key) -> (state, metrics)`, jitted.

    The state passed in is donated: use the one returned. `key` is the run's key; the step's own
    randomness is a function of it and state.step, so every call may pass the same key.

    Args:
      network: `network(params, x, c_noise, *, dropout_key, **cond)`; cond is the batch without its
        image.
      preconditioning: what the network predicts.
      noise: draws sigma, `noise(key, (B,))`.
      optimizer: an optax transformation.
      ema: average of the weights.
      weighting: factor of the loss by noise level.
      balance: what is learned about the loss by noise level; the state must be made with it.
      coupling: which noise goes with which image.
      label_dropout: share of labels replaced by the null class, in [0, 1]; what classifier-free
        guidance needs.
      augment: `augment(key, batch) -> batch`.
    Returns:
      train_step; metrics are float32 scalars: "loss" (weighted, not balanced, so that runs can be
      compared), "grad_norm" (before any clipping) and "weight_norm" (after the step: it shows
      weights that the step has made nan or inf).
    """

    def batch_loss(
        learning: tuple[Any, Any], batch: Batch, key: Array
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        params, learned = learning
        augment_key, label_key, sigma_key, eps_key, dropout_key = jax.random.split(key, 5)
        cond = dict(augment(augment_key, batch))
        x_0 = cond.pop("image")
        if "label" in cond and label_dropout > 0:
            cond["label"] = drop_label(label_key, cond["label"], label_dropout)
        sigma = noise(sigma_key, x_0.shape[:1])
        eps = coupling(x_0, jax.random.normal(eps_key, x_0.shape))
        losses = loss(
            network,
            params,
            preconditioning,
            x_0,
            sigma,
            eps,
            weighting=weighting,
            dropout_key=dropout_key,
            **cond,
        )
        return balance(learned, sigma, losses).mean(), losses.mean()

    @partial(jax.jit, donate_argnums=0)
    def train_step(
        state: TrainState, batch: Batch, key: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        step_key = jax.random.fold_in(key, state.step)
        learning = (state.params, state.balance)
        (_, value), grads = jax.value_and_grad(batch_loss, has_aux=True)(learning, batch, step_key)
        updates, opt_state = optimizer.update(grads, state.opt_state, learning)
        updated: Any = optax.apply_updates(learning, updates)
        params, learned = updated
        average = ema.update(state.ema, params, state.step, batch["image"].shape[0])
        metrics = {
            "loss": value,
            "grad_norm": optax.tree.norm(grads),
            "weight_norm": optax.tree.norm(params),
        }
        return TrainState(state.step + 1, params, opt_state, average, learned), metrics

    return train_step
