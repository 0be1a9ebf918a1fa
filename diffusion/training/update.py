"""A training step for any objective: gradients, averages and what is skipped; pure and jitted.

`make_train_step` makes the step of denoisers, `make_reconstruction_step` that of autoencoders.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from diffusion.keys import demand_key
from diffusion.noise.distributions import LogNormal, Noise
from diffusion.noise.importance import remembering
from diffusion.pixels import as_images, check_image
from diffusion.training.augment import Batch
from diffusion.training.clipping import global_norm
from diffusion.training.ema import Average
from diffusion.training.loss import LossUncertainty, NoUncertainty
from diffusion.training.precision import check_weights


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


@dataclass(frozen=True)
class Objective:
    """What a training step minimises, as four functions of arrays.

    Attributes:
      draw: `draw(batch, memory, keys) -> inputs`, which draws everything random about a batch but
        dropout with four keys; a tree of arrays, each with a first axis of the batch's size.
      losses: `losses(params, learned, inputs, dropout_key) -> (objective, parts)`: the scalar to
        minimise, and by name what is reported of each image, (B,); "loss" among them.
      remember: `remember(memory, inputs, parts) -> memory`.
      metrics: `metrics(inputs, parts) -> {"loss": scalar, ...}`, float32.
    """

    draw: Callable[[Batch, Any, list[Array]], Any]
    losses: Callable[[Any, Any, Any, Array], tuple[Float[Array, ""], dict[str, Array]]]
    remember: Callable[[Any, Any, dict[str, Array]], Any]
    metrics: Callable[[Any, dict[str, Array]], dict[str, Array]]


def make_update(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    ema: Average,
    *,
    accumulate: int = 1,
    project: Callable[[Any], Any] | None = None,
) -> TrainStep:
    """Makes `train_step(state, batch, key) -> (state, metrics)`, jitted; see `make_train_step`."""

    def objective_of(
        learning: tuple[Any, Any], inputs: Any, dropout_key: Array
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        return objective.losses(*learning, inputs, dropout_key)

    differentiate = jax.grad(objective_of, has_aux=True)

    def gradient(
        learning: tuple[Any, Any], inputs: Any, dropout_key: Array
    ) -> tuple[Any, dict[str, Array]]:
        if accumulate == 1:
            return differentiate(learning, inputs, dropout_key)

        def add(total: Any, indexed: tuple[Array, Any]) -> tuple[Any, dict[str, Array]]:
            index, part = indexed
            grads, losses = differentiate(learning, part, jax.random.fold_in(dropout_key, index))
            return jax.tree.map(lambda t, g: t + g / accumulate, total, grads), losses

        # interleaved, so that each part is spread evenly over the devices
        parts = jax.tree.map(
            lambda a: a.reshape(-1, accumulate, *a.shape[1:]).swapaxes(0, 1), inputs
        )
        total, losses = jax.lax.scan(
            add,
            jax.tree.map(jnp.zeros_like, learning),
            (jnp.arange(accumulate), parts),
            unroll=jax.default_backend() == "cpu",  # XLA's CPU loops run convolutions on one core
        )
        return total, jax.tree.map(lambda a: a.swapaxes(0, 1).reshape(-1), losses)

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
        inputs = objective.draw(batch, state.memory, draw_keys)
        grads, parts = gradient((state.params, state.uncertainty), inputs, dropout_key)
        grad_norm = global_norm(grads)
        metrics = objective.metrics(inputs, parts)
        is_finite = jnp.isfinite(metrics["loss"] + grad_norm)

        def advanced(state: TrainState) -> TrainState:
            learning = (state.params, state.uncertainty)
            updates, opt_state = optax.with_extra_args_support(optimizer).update(
                grads, state.opt_state, learning, grad_norm=grad_norm, value=parts["loss"].mean()
            )
            params, learned = cast(Any, optax.apply_updates(learning, updates))
            params = params if project is None else project(params)
            average = ema.update(state.ema, params, state.step, parts["loss"].shape[0])
            memory = objective.remember(state.memory, inputs, parts)
            return TrainState(state.step, params, opt_state, average, learned, memory)

        state = jax.lax.cond(is_finite, advanced, lambda state: state, state)
        weight_norm = global_norm((state.params, state.uncertainty))
        metrics |= {
            "grad_norm": grad_norm,
            "weight_norm": weight_norm,
            "skipped": jnp.float32(1) - is_finite,
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
