"""Optimisers: configurations for recipes; `make()` returns the optax transformation."""

from dataclasses import dataclass, field
from functools import partial
from operator import attrgetter
from typing import Any

import jax
import jax.numpy as jnp
import optax

from diffusion.ranges import demand
from diffusion.training.clipping import clip_by_grad_norm
from diffusion.training.precision import in_float32


@dataclass(frozen=True)
class Adam:
    """Adam with linear warm-up, optional learning-rate decay, weight decay and gradient clipping.

    Attributes:
      learning_rate: learning rate after the warm-up, > 0.
      warmup_steps: number of steps over which the learning rate rises linearly from 0.
      decay_steps: step at which a cosine decay reaches 0; None for no cosine decay.
      sqrt_decay_steps: step after which the learning rate falls as 1 / sqrt(step); None for no such
        decay.
      clip_norm: gradients are clipped to this global norm; None for no clipping.
      weight_decay: AdamW's decoupled weight decay, >= 0: each step subtracts learning rate *
        weight_decay * kernel. Biases, norms and constants do not decay.
      b1, b2, eps: Adam's beta_1, beta_2 and epsilon.
    Source: Kingma & Ba 2014, arXiv:1412.6980; weight decay Loshchilov & Hutter 2017,
      arXiv:1711.05101; sqrt decay as Karras et al. 2023, arXiv:2312.02696, equation 67.
    """

    learning_rate: float
    warmup_steps: int = 0
    decay_steps: int | None = None
    sqrt_decay_steps: int | None = None
    clip_norm: float | None = None
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8

    def __post_init__(self):
        demand("(0, inf)", learning_rate=self.learning_rate, eps=self.eps)
        demand("[0, 1)", b1=self.b1, b2=self.b2)
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps={self.warmup_steps} must be 0 or more.")
        if self.decay_steps is not None and self.decay_steps <= self.warmup_steps:
            raise ValueError(
                f"decay_steps={self.decay_steps} must be more than "
                f"warmup_steps={self.warmup_steps}, or none."
            )
        if self.sqrt_decay_steps is not None and (self.sqrt_decay_steps < 1 or self.decay_steps):
            raise ValueError(
                f"sqrt_decay_steps={self.sqrt_decay_steps} must be 1 or more, without decay_steps; "
                "or none."
            )
        if self.clip_norm is not None:
            demand("(0, inf)", clip_norm=self.clip_norm)
        demand("[0, inf)", weight_decay=self.weight_decay)

    @property
    def last_step(self) -> int | None:
        """The step at which the learning rate reaches 0, so that training must end; or None."""
        return self.decay_steps

    def rate(self) -> optax.Schedule:
        """The learning rate as a function of the step."""
        rate: optax.Schedule = optax.constant_schedule(self.learning_rate)
        if self.decay_steps is not None:
            rate = optax.cosine_decay_schedule(
                self.learning_rate, self.decay_steps - self.warmup_steps
            )
        if self.sqrt_decay_steps is not None:
            rate = partial(self._sqrt_decay, self.sqrt_decay_steps)

        if self.warmup_steps:
            warmup = optax.linear_schedule(0.0, self.learning_rate, self.warmup_steps)
            rate = optax.join_schedules([warmup, rate], [self.warmup_steps])
        return rate

    def make(self) -> optax.GradientTransformation:
        """The optax transformation."""
        rate = self.rate()
        adam = (
            optax.adamw(
                rate, self.b1, self.b2, self.eps, weight_decay=self.weight_decay, mask=are_kernels
            )
            if self.weight_decay
            else optax.adam(rate, self.b1, self.b2, self.eps)
        )
        return clipped(adam, self.clip_norm)

    def _sqrt_decay(self, reference: int, count: Any) -> Any:
        step = jnp.maximum(count + self.warmup_steps, reference)  # count begins after the warm-up
        return self.learning_rate * jnp.sqrt(reference / step)


@dataclass(frozen=True)
class Optax:
    """Any optimiser of optax, with any of its schedules.

    Attributes:
      name: name of the optax function, such as "lion" or "contrib.muon".
      options: its keyword arguments, without the learning rate.
      learning_rate: constant learning rate, > 0; not used if there is a schedule.
      schedule: name of an optax schedule such as "warmup_cosine_decay_schedule"; "" for none.
      schedule_options: all arguments of the schedule.
      clip_norm: gradients are clipped to this global norm; None for no clipping.
    """

    name: str
    options: dict[str, Any] = field(default_factory=dict)
    learning_rate: float = 1e-3
    schedule: str = ""
    schedule_options: dict[str, Any] = field(default_factory=dict)
    clip_norm: float | None = None

    def __post_init__(self):
        demand("(0, inf)", learning_rate=self.learning_rate)
        if self.clip_norm is not None:
            demand("(0, inf)", clip_norm=self.clip_norm)
        try:
            self.make()
        except (AttributeError, TypeError) as error:
            raise ValueError(f"optax cannot make this optimiser: {error}.") from error

    @property
    def last_step(self) -> int | None:
        """None: the step at which an optax schedule reaches 0 is not known."""
        return None

    def make(self) -> optax.GradientTransformation:
        """The optax transformation."""
        rate = self.learning_rate
        if self.schedule:
            rate = attrgetter(self.schedule)(optax)(**self.schedule_options)
        return clipped(attrgetter(self.name)(optax)(rate, **self.options), self.clip_norm)


@dataclass(frozen=True)
class Muon:
    """Momentum, made orthogonal for every kernel; Adam for biases, norms, tables and the rest.

    A kernel is a matrix of all its inputs by its outputs. The learning rate is that of Adam: the
    root mean square of an update is 0.2 of it, about what Adam's is.

    Attributes:
      learning_rate: learning rate after the warm-up, > 0.
      warmup_steps: number of steps over which the learning rate rises linearly from 0.
      decay_steps: step at which a cosine decay reaches 0; None for no decay.
      clip_norm: gradients are clipped to this global norm; None for no clipping.
      beta: decay of the momentum, in [0, 1).
    Source: Jordan et al. 2024, kellerjordan.github.io/posts/muon; the scale Liu et al. 2025,
      arXiv:2502.16982, equation 4. Both momenta are Nesterov's, Adam's too, as in optax.
    """

    learning_rate: float
    warmup_steps: int = 0
    decay_steps: int | None = None
    clip_norm: float | None = None
    beta: float = 0.95

    def __post_init__(self):
        demand("[0, 1)", beta=self.beta)
        self._adam()  # checks the others

    def _adam(self) -> Adam:
        return Adam(self.learning_rate, self.warmup_steps, self.decay_steps, None, self.clip_norm)

    @property
    def last_step(self) -> int | None:
        """The step at which the learning rate reaches 0, so that training must end; or None."""
        return self.decay_steps

    def make(self) -> optax.GradientTransformation:
        """The optax transformation."""
        rate = self._adam().rate()
        muon = optax.contrib.muon(
            rate,
            beta=self.beta,
            adam_learning_rate=rate,
            muon_weight_dimension_numbers=kernel_axes,
            consistent_rms=0.2,
        )
        return clipped(muon, self.clip_norm)


def kernel_axes(params: Any) -> Any:
    """For every parameter the axes of its inputs and of its outputs; None where it is no kernel."""

    def axes(path: Any, leaf: Any) -> Any:
        is_kernel = "kernel" in jax.tree_util.keystr(path[-1:]) and leaf.ndim > 1
        if not is_kernel:
            return None
        *inputs, output = range(leaf.ndim)
        return optax.contrib.MuonDimensionNumbers(tuple(inputs), (output,))

    return jax.tree.map_with_path(axes, params)


Optimizer = Adam | Optax | Muon


def clipped(
    optimizer: optax.GradientTransformation, norm: float | None
) -> optax.GradientTransformation:
    """The optimiser in float32, after clipping the gradient's global norm unless `norm` is None."""
    steps = optimizer if norm is None else optax.chain(clip_by_grad_norm(norm), optimizer)
    return in_float32(steps)


def are_kernels(params: Any) -> Any:
    """Mask of the parameters that decay: those with two axes or more."""
    return jax.tree.map(lambda leaf: leaf.ndim > 1, params)
