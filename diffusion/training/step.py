"""The training state and the step that advances it: pure, jitted, donated."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int, Integer, Key

from diffusion.denoiser import Network, Preconditioning
from diffusion.keys import demand_key
from diffusion.noise.distributions import LogNormal, Noise
from diffusion.noise.importance import remembering
from diffusion.pixels import as_images, check_image
from diffusion.training.augment import Augment, Batch, Unchanged
from diffusion.training.clipping import global_norm
from diffusion.training.condition_dropout import drop_conditions
from diffusion.training.coupling import Coupling, Independent
from diffusion.training.ema import Average
from diffusion.training.loss import LossUncertainty, NoUncertainty, Simple, loss
from diffusion.training.precision import check_weights
from diffusion.training.variance import FixedVariance, Variance


@partial(
    jax.tree_util.register_dataclass,
    data_fields=["step", "params", "opt_state", "ema", "uncertainty", "memory"],
    meta_fields=[],
)
@dataclass(frozen=True)
class TrainState:
    """Everything that changes in training. Batches and noise are functions of (seed, step).

    Attributes:
      step: number of steps taken, int32 scalar.
      params: the network's weights, float32.
      opt_state: state of the optax optimiser.
      ema: averaged weights for sampling; `ema.choose(state.ema, name)` returns one average.
      uncertainty: learned parameters of the loss, see `Uncertainty`.
      memory: what the noise distribution remembers of the losses, see `ImportanceSampled`.
    """

    step: Any
    params: Any
    opt_state: Any
    ema: Any
    uncertainty: Any
    memory: Any

    @classmethod
    def create(
        cls,
        params: Any,
        optimizer: optax.GradientTransformation,
        ema: Average,
        uncertainty: LossUncertainty = NoUncertainty(),  # noqa: B008 (frozen)
        noise: Noise = LogNormal(),  # noqa: B008 (frozen)
    ) -> "TrainState":
        """The state before the first step; `noise` matters where it has memory.

        Raises:
          ValueError: weights are narrower than float32.
        """
        check_weights(params)
        learned = uncertainty.init()
        opt_state = optimizer.init((params, learned))
        average, memory = ema.init(params), remembering(noise).init()
        return cls(jnp.zeros((), jnp.int32), params, opt_state, average, learned, memory)


TrainStep = Callable[[TrainState, Batch, Array], tuple[TrainState, dict[str, Array]]]


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

    def mean_loss(
        learning: tuple[Any, Any], part: dict[str, Any], dropout_key: Array
    ) -> tuple[Float[Array, ""], Float[Array, "B"]]:
        params, learned = learning
        losses = loss(
            network,
            params,
            preconditioning,
            part["x_0"],
            part["drawn"].sigma,
            part["eps"],
            weighting=weighting,
            variance=variance,
            dropout_key=dropout_key,
            **part["cond"],
        )
        objective = uncertainty(learned, part["drawn"].sigma, losses)
        return (part["drawn"].weight * objective).mean(), losses

    differentiate = jax.grad(mean_loss, has_aux=True)

    distribution = remembering(noise)

    def draw(batch: Batch, memory: dict[str, Array], keys: list[Array]) -> dict[str, Any]:
        """Draws everything random about a batch, except dropout."""
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

    def gradient(
        learning: tuple[Any, Any], whole: dict[str, Any], dropout_key: Array
    ) -> tuple[Any, Float[Array, "B"]]:
        if accumulate == 1:
            return differentiate(learning, whole, dropout_key)

        def add(total: Any, indexed: tuple[Array, Any]) -> tuple[Any, Array]:
            index, part = indexed
            grads, losses = differentiate(learning, part, jax.random.fold_in(dropout_key, index))
            return jax.tree.map(lambda t, g: t + g / accumulate, total, grads), losses

        # interleaved, so that each part is spread evenly over the devices
        parts = jax.tree.map(
            lambda a: a.reshape(-1, accumulate, *a.shape[1:]).swapaxes(0, 1), whole
        )
        total, losses = jax.lax.scan(
            add,
            jax.tree.map(jnp.zeros_like, learning),
            (jnp.arange(accumulate), parts),
            unroll=jax.default_backend() == "cpu",  # XLA's CPU loops run convolutions on one core
        )
        return total, losses.swapaxes(0, 1).reshape(-1)

    @partial(jax.jit, donate_argnums=0)
    def train_step(
        state: TrainState, batch: Batch, key: Array
    ) -> tuple[TrainState, dict[str, Array]]:
        if "image" not in batch:
            raise ValueError(f"the batch has no 'image', only {sorted(batch)}.")
        check_image("the batch's 'image'", batch["image"])
        demand_key(key)
        batch = {**batch, "image": batch["image"].astype(jnp.float32)}
        *draw_keys, dropout_key = jax.random.split(jax.random.fold_in(key, state.step), 5)
        whole = draw(batch, state.memory, draw_keys)
        drawn = whole["drawn"]
        grads, losses = gradient((state.params, state.uncertainty), whole, dropout_key)
        grad_norm = global_norm(grads)
        loss = (drawn.weight * losses).mean()
        is_finite = jnp.isfinite(loss + grad_norm)

        def advanced(state: TrainState) -> TrainState:
            learning = (state.params, state.uncertainty)
            updates, opt_state = optax.with_extra_args_support(optimizer).update(
                grads, state.opt_state, learning, grad_norm=grad_norm, value=losses.mean()
            )
            params, learned = cast(Any, optax.apply_updates(learning, updates))
            params = params if project is None else project(params)
            average = ema.update(state.ema, params, state.step, losses.shape[0])
            memory = distribution.update(state.memory, drawn, losses)
            return TrainState(state.step, params, opt_state, average, learned, memory)

        state = jax.lax.cond(is_finite, advanced, lambda state: state, state)
        weight_norm = global_norm((state.params, state.uncertainty))
        level = jnp.searchsorted(jnp.array(LEVELS, jnp.float32), drawn.sigma)
        is_of_level = level[:, None] == jnp.arange(len(LEVELS) + 1)[None]  # (B, levels)
        metrics = {
            "loss": loss,
            "grad_norm": grad_norm,
            "weight_norm": weight_norm,
            "skipped": jnp.float32(1) - is_finite,
            "level_sums": jnp.where(is_of_level, losses[:, None], jnp.float32(0)).sum(0),
            "level_counts": is_of_level.sum(0, dtype=jnp.float32),
        }
        return replace(state, step=state.step + 1), metrics

    return train_step


def make_train_steps(train_step: TrainStep) -> Callable[..., tuple[TrainState, dict[str, Array]]]:
    """Makes `train_steps(state, dataset, indices, num_steps, key)`: several steps in one dispatch.

    This saves the overhead of dispatching each step, which matters on accelerators. On a CPU it is
    slow, because XLA runs convolutions inside loops on one core. The number of steps is an array
    and not a shape, so any number runs the same compiled code, with bitwise equal results.

    Returns:
      train_steps. Its dataset is {"image": uint8 (N, H, W, C), "label": (N,), ...} on the devices,
      of which uint8 arrays are pixels. Row k of indices (K, B) selects the images of step k; the
      first num_steps <= K steps are taken. The state is donated. Metrics have a first axis of size
      K, and are zero from index num_steps on.
    """

    @partial(jax.jit, donate_argnums=0)
    def train_steps(
        state: TrainState,
        dataset: Batch,
        indices: Int[Array, "K B"],
        num_steps: Int[Array, ""],
        key: Array,
    ) -> tuple[TrainState, dict[str, Array]]:
        def one(state: TrainState, chosen: Array) -> tuple[TrainState, dict[str, Array]]:
            batch = as_images({name: values[chosen] for name, values in dataset.items()})
            return train_step(state, batch, key)

        def advance(k: Array, carry: tuple[TrainState, Any]) -> tuple[TrainState, Any]:
            state, metrics = one(carry[0], indices[k])
            return state, jax.tree.map(lambda all, new: all.at[k].set(new), carry[1], metrics)

        _, shapes = jax.eval_shape(one, state, indices[0])
        zeros = jax.tree.map(
            lambda leaf: jnp.zeros((len(indices), *leaf.shape), leaf.dtype), shapes
        )
        return jax.lax.fori_loop(0, num_steps, advance, (state, zeros))

    return train_steps
