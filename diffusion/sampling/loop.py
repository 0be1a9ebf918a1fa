"""The base of all samplers, and the compiled loop that runs a sampler's step along a grid.

The loop is compiled once for a kind of sampler, a network and a shape of images. Grids are padded
to a common length and their number of steps is an argument, as are weights, labels, seeds, guidance
scales and the sampler's own numbers: new values compile nothing. Grids of more than 1,024 steps
compile once for each 1,025 more.
"""

from collections.abc import Callable, Iterable
from dataclasses import fields
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from diffusion.denoiser import Denoise
from diffusion.sampling.step_context import StepContext
from diffusion.sampling.unit_noise import Keys, check_key

GRID_LENGTH = 1025
"""Grids of up to 1,024 steps share one compiled loop; longer ones are padded to a multiple."""


class BaseSampler:
    """What all samplers share. A sampler is a frozen dataclass that states `order` and `step`.

    Its fields are the arguments of the compiled loop, so that new values compile nothing. A field
    that decides what is compiled, such as an order, is marked as JAX's own dataclasses mark it:
    `field(default=2, metadata={"static": True})`.

    Attributes:
      order: measured order of convergence: of the probability-flow ODE where `is_deterministic`,
        else of the variance of the samples.
      stages: calls of the denoiser in a step; the step to sigma = 0 always takes one.
      num_noises: independent draws of noise in a step, which `step` takes stacked if given.
      is_adaptive: whether the sampler chooses steps of its own; then it has no `step`.
    """

    order: Any  # an int; a class attribute, a field or a property
    stages: Any = 1  # as order
    num_noises: Any = 1
    is_adaptive: bool = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        jax.tree_util.register_pytree_with_keys(cls, _flatten, partial(_unflatten, cls))

    @property
    def is_deterministic(self) -> bool:
        """Whether no noise is drawn, so that the result depends on x_T alone."""
        return True

    @property
    def needs_variance(self) -> bool:
        """Whether it takes a learned variance, which the denoiser must then have."""
        return False

    @property
    def has_memory(self) -> bool:
        """Whether a step uses the estimates of earlier steps."""
        return bool(jax.tree.leaves(jax.eval_shape(self.init, jnp.zeros((1, 1, 1, 1)))))

    def nfe(self, num_steps: int, *, ends_above_zero: bool = False) -> int | None:
        """Number of calls of the denoiser; None where it depends on the denoiser.

        Args:
          ends_above_zero: whether the grid's last sigma is above 0, unlike those of `grids`.
        """
        return self.stages * num_steps - (0 if ends_above_zero else self.stages - 1)

    def path(self, sigmas: Float[Array, "S"]) -> Float[Array, "P"]:
        """The sigmas in the order in which the steps visit them: the grid itself by default."""
        return sigmas

    def init(self, x_T: Float[Array, "B ..."]) -> Any:
        """The memory before the first step: any pytree of arrays; empty by default."""
        return ()

    def step(
        self, denoise: Denoise, x: Float[Array, "B ..."], memory: Any, at: StepContext
    ) -> tuple[Float[Array, "B ..."], Any]:
        """Goes from at.sigma to at.sigma_next; returns (x_next, memory)."""
        raise NotImplementedError

    def __call__(
        self, denoise: Denoise, x_T: Float[Array, "B ..."], sigmas: Float[Array, "S"], key: Keys
    ) -> Float[Array, "B ..."]:
        """Goes from noise at sigmas[0] to images.

        Raises:
          ValueError: see `check_call`.
        """
        check_call(x_T, sigmas, key)
        return run_along(self.path(sigmas), self, denoise, x_T, key)


def _flatten(sampler: Any) -> tuple[list[tuple[Any, Any]], tuple[Any, ...]]:
    """The sampler's leaves with their names, and the values of its static fields."""
    leaves, static = [], []
    for field in fields(sampler):
        value = getattr(sampler, field.name)
        if field.type in (float, "float", float | None) and isinstance(value, int):
            value = float(value)  # Euler(1) and Euler(1.0) are one compiled loop
        if field.metadata.get("static"):
            static.append(value)
        else:
            leaves.append((jax.tree_util.GetAttrKey(field.name), value))
    return leaves, tuple(static)


def _unflatten(kind: Any, static: Iterable[Any], leaves: Iterable[Any]) -> Any:
    """Inverse of `_flatten`; not by `kind(...)`, which would refuse the placeholders of JAX."""
    sampler = object.__new__(kind)
    static, leaves = iter(static), iter(leaves)
    for field in fields(kind):
        value = next(static if field.metadata.get("static") else leaves)
        object.__setattr__(sampler, field.name, value)
    return sampler


def step(
    sampler: BaseSampler,
    denoise: Denoise,
    x: Float[Array, "B ..."],
    memory: Any,
    at: StepContext,
    noise: Float[Array, "..."] | None = None,
) -> tuple[Float[Array, "B ..."], Any]:
    """One step of a sampler, with noise of one's own: returns (x_next, memory).

    `at = StepContext(step, sigmas, num_steps, key)` says where on the grid the step stands.

    Args:
      memory: what the step before returned; None before the first step.
      noise: unit noise in place of the key's: like x, or (num_noises, *x.shape) if the sampler
        draws several. None draws it by at.key.
    Raises:
      ValueError: an adaptive sampler, which has no steps; a step that is not on the grid; noise of
        another shape, or neither noise nor a key for a sampler that draws some.
    """
    if sampler.is_adaptive:
        raise ValueError(f"{type(sampler).__name__} is adaptive: it has no steps of a grid.")
    several = sampler.num_noises
    expected = x.shape if several == 1 else (several, *x.shape)
    if noise is not None and noise.shape != expected:
        raise ValueError(f"noise has the shape {noise.shape}; {sampler} takes {expected}.")
    if noise is None and at.key is None and not sampler.is_deterministic:
        raise ValueError(f"{sampler} draws noise; give it, or a key in at.key.")
    is_known = not isinstance(at.step, Tracer)
    if is_known and not 0 <= at.step < min(len(at.sigmas) - 1, at.num_steps):
        raise ValueError(
            f"step={at.step} is not one of the {at.num_steps} steps of a grid of "
            f"{len(at.sigmas)} sigmas."
        )
    at = StepContext(
        jnp.asarray(at.step, jnp.int32),
        jnp.asarray(at.sigmas),
        jnp.asarray(at.num_steps, jnp.int32),
        at.key,
        noise,
    )
    return sampler.step(denoise, x, sampler.init(x) if memory is None else memory, at)


def run_along(
    path: Float[Array, "P"],
    sampler: BaseSampler,
    denoise: Denoise,
    x: Float[Array, "B ..."],
    key: Keys,
) -> Float[Array, "B ..."]:
    """Runs the sampler's step from each sigma of the path to the next, up or down."""
    path = jnp.asarray(path)
    length = -(-len(path) // GRID_LENGTH) * GRID_LENGTH
    padded = jnp.pad(path, (0, length - len(path)))
    return _loop(sampler, as_pytree(denoise), x, padded, jnp.int32(len(path) - 1), key)


@jax.jit
def _loop(
    sampler: BaseSampler, denoise: Denoise, x_T: Array, sigmas: Array, num_steps: Array, key: Keys
) -> Array:
    def body(index: Array, carry: tuple[Array, Any]) -> tuple[Array, Any]:
        return sampler.step(denoise, *carry, StepContext(index, sigmas, num_steps, key))

    return jax.lax.fori_loop(0, num_steps, body, (x_T, sampler.init(x_T)))[0]


def trajectory_along(
    path: Float[Array, "P"],
    sampler: BaseSampler,
    denoise: Denoise,
    x: Float[Array, "B ..."],
    key: Keys,
) -> Float[Array, "P B ..."]:
    """As `run_along`, but all x of the path; compiled for each number of steps."""
    path = jnp.asarray(path)
    return _scan(sampler, as_pytree(denoise), x, path, jnp.arange(len(path)), key)


def trajectory(
    sampler: BaseSampler,
    denoise: Denoise,
    x_T: Float[Array, "B ..."],
    sigmas: Float[Array, "S"],
    key: Keys,
    *,
    num_frames: int | None = None,
) -> tuple[Float[Array, "F B ..."], Float[Array, "F"]]:
    """All x_t from noise to image, and the sigma of each.

    Compiled for each number of steps.

    Args:
      sampler: one that is not adaptive.
      num_frames: number of x_t to return, the first and the last among them, as evenly spaced over
        the steps as possible; all by default.
    Raises:
      ValueError: fewer than two frames; an adaptive sampler; as of a sampler's call.
    """
    if sampler.is_adaptive:
        raise ValueError(
            f"{type(sampler).__name__} is adaptive: each image has steps of its own, so there is "
            "no common trajectory; use another sampler."
        )
    check_call(x_T, sigmas, key)
    if num_frames is not None and num_frames < 2:
        raise ValueError(f"num_frames={num_frames} must be 2 or more: noise and image.")
    path = jnp.asarray(sampler.path(sigmas))
    num_frames = min(num_frames or len(path), len(path))
    stops = jnp.asarray(np.round(np.linspace(0, len(path) - 1, num_frames)), jnp.int32)
    frames = _scan(sampler, as_pytree(denoise), x_T, path, stops, key)
    return frames, path[stops]


@jax.jit
def _scan(
    sampler: BaseSampler, denoise: Denoise, x_T: Array, sigmas: Array, stops: Array, key: Keys
) -> Array:
    num_steps = jnp.int32(len(sigmas) - 1)

    def body(index: Array, carry: tuple[Array, Any]) -> tuple[Array, Any]:
        return sampler.step(denoise, *carry, StepContext(index, sigmas, num_steps, key))

    def to_next_stop(carry: tuple[Array, Any], ends: Array) -> tuple[tuple[Array, Any], Array]:
        carry = jax.lax.fori_loop(ends[0], ends[1], body, carry)
        return carry, carry[0]

    ends = jnp.stack([stops[:-1], stops[1:]], axis=1)
    _, xs = jax.lax.scan(to_next_stop, (x_T, sampler.init(x_T)), ends)
    return jnp.concatenate([x_T[None], xs])


def as_pytree(denoise: Denoise | Callable[..., Any]) -> Any:
    """The denoiser, or what makes one, as an argument of a compiled function.

    A plain function, alone or as a leaf, has no arrays of its own: it is part of what is compiled.
    """

    def wrap(leaf: Any) -> Any:
        return jax.tree_util.Partial(leaf) if callable(leaf) else leaf

    return jax.tree.map(wrap, denoise)


def check_call(x_T: Array, sigmas: Float[Array, "S"], key: Any) -> None:
    """Checks the arguments of a sampler.

    Raises:
      ValueError: the grid does not descend, or goes below 0; a key of the wrong type or shape; x_T
        is neither float32 nor float64, of which too little would be left at small sigma.
    """
    check_grid(sigmas)
    check_key(key, x_T)
    if x_T.dtype not in (jnp.float32, jnp.float64):
        raise ValueError(
            f"x_T is of type {x_T.dtype}; sample in float32: the network may compute in another."
        )


def check_grid(sigmas: Float[Array, "S"]) -> None:
    """Raises a ValueError unless the sigmas are finite, descend and end in 0 or above.

    The values of a traced grid are not known, and pass.
    """
    if len(sigmas) < 2:
        raise ValueError(f"a grid of {len(sigmas)} sigmas has no step; it needs two or more.")
    if isinstance(sigmas, Tracer):
        return
    values = np.asarray(sigmas)
    if not (np.isfinite(values).all() and (values[1:] < values[:-1]).all() and values[-1] >= 0):
        shown = ", ".join(f"{value:.4g}" for value in values[:6])
        shown = f"{shown}, ..., {values[-1]:.4g}" if len(values) > 6 else shown
        raise ValueError(
            f"sigmas must be finite, descend from noise to image and end in 0 or above; these are "
            f"{shown}."
        )
