"""The loop that every sampler runs: a step, folded over the grid from noise to image.

The loop is compiled once for a kind of sampler, a network and a shape of images. Grids are padded
to a common length and their number of steps is an argument, as are weights, labels, seeds, guidance
scales and the samplers' own settings: none of them compiles anything anew. Grids of more than 1,024
steps do, once for each 1,025 more.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float

from diffusion.denoiser import Denoise
from diffusion.sampling.step import Keys, Now

GRID_LENGTH = 1025
"""Grids of up to 1,024 steps share one compiled loop; longer ones are padded to a multiple."""


def _nothing(x_T: Array) -> tuple[()]:
    return ()


class Method(NamedTuple):
    """How a sampler steps.

    Attributes:
      step: step(denoise, x, memory, now, settings) -> (x, memory).
      memory: memory(x_T) -> what a step hands to the next, such as earlier estimates.
      way: way(sigmas) -> the sigmas in the order in which they are walked.
    """

    step: Callable[..., tuple[Array, Any]]
    memory: Callable[[Array], Any] = _nothing
    way: Callable[[Array], Array] = lambda sigmas: sigmas


class OnGrid:
    """A sampler that walks a grid: by what method, and what numbers the method is set to."""

    @property
    def method(self) -> Method:
        raise NotImplementedError

    @property
    def settings(self) -> tuple[float, ...]:
        return ()

    def nfe(self, num_steps: int) -> int:
        """Calls of the denoiser."""
        return num_steps

    def __call__(
        self, denoise: Denoise, x_T: Float[Array, "B ..."], sigmas: Float[Array, "S"], key: Keys
    ) -> Float[Array, "B ..."]:
        """Goes from noise at sigmas[0] to images; see `solve`."""
        return solve(self, denoise, x_T, sigmas, key)


def solve(
    sampler: OnGrid,
    denoise: Denoise,
    x_T: Float[Array, "B ..."],
    sigmas: Float[Array, "S"],
    key: Keys,
) -> Float[Array, "B ..."]:
    """Folds the sampler's step over the grid.

    Raises:
      ValueError: the grid does not descend, or goes below 0.
    """
    check_grid(sigmas)
    sigmas = jnp.asarray(sampler.method.way(sigmas))
    num_steps = len(sigmas) - 1
    length = -(-len(sigmas) // GRID_LENGTH) * GRID_LENGTH
    padded = jnp.pad(sigmas, (0, length - len(sigmas)))
    method = sampler.method
    return _loop(
        method.step,
        method.memory,
        as_argument(denoise),
        x_T,
        padded,
        jnp.int32(num_steps),
        key,
        sampler.settings,
    )


@partial(jax.jit, static_argnames=("step", "memory"))
def _loop(
    step: Callable,
    memory: Callable,
    denoise: Denoise,
    x_T: Array,
    sigmas: Array,
    num_steps: Array,
    key: Keys,
    settings: tuple[Any, ...],
) -> Array:
    def body(index: Array, carry: tuple[Array, Any]) -> tuple[Array, Any]:
        return step(denoise, *carry, Now(index, sigmas, num_steps, key), settings)

    return jax.lax.fori_loop(0, num_steps, body, (x_T, memory(x_T)))[0]


def trajectory(
    sampler: Any,
    denoise: Denoise,
    x_T: Float[Array, "B ..."],
    sigmas: Float[Array, "S"],
    key: Keys,
    *,
    num_frames: int | None = None,
) -> tuple[Float[Array, "F B ..."], Float[Array, "F"]]:
    """The way from noise to image, and the sigma at which each of its frames stands.

    Compiled for each number of steps.

    Args:
      sampler: any but `RK45`, whose steps differ from image to image.
      num_frames: how many, x_T and the end among them, as evenly over the steps as can be; all by
        default.
    Raises:
      ValueError: the grid does not descend, or goes below 0; fewer than two frames; a sampler that
        walks no grid.
    """
    if not isinstance(sampler, OnGrid):
        raise ValueError(
            f"{type(sampler).__name__} chooses its own steps for each image, so that there are no "
            "frames; use another sampler."
        )
    check_grid(sigmas)
    if num_frames is not None and num_frames < 2:
        raise ValueError(f"num_frames={num_frames} must be 2 or more: noise and image.")
    way = jnp.asarray(sampler.method.way(sigmas))
    num_frames = min(num_frames or len(way), len(way))
    stops = jnp.asarray(np.round(np.linspace(0, len(way) - 1, num_frames)), jnp.int32)
    method = sampler.method
    frames = _scan(
        method.step, method.memory, as_argument(denoise), x_T, way, stops, key, sampler.settings
    )
    return frames, way[stops]


@partial(jax.jit, static_argnames=("step", "memory"))
def _scan(
    step: Callable,
    memory: Callable,
    denoise: Denoise,
    x_T: Array,
    sigmas: Array,
    stops: Array,
    key: Keys,
    settings: tuple[Any, ...],
) -> Array:
    num_steps = jnp.int32(len(sigmas) - 1)

    def body(index: Array, carry: tuple[Array, Any]) -> tuple[Array, Any]:
        return step(denoise, *carry, Now(index, sigmas, num_steps, key), settings)

    def to_next_stop(carry: tuple[Array, Any], ends: Array) -> tuple[tuple[Array, Any], Array]:
        carry = jax.lax.fori_loop(ends[0], ends[1], body, carry)
        return carry, carry[0]

    ends = jnp.stack([stops[:-1], stops[1:]], axis=1)
    _, xs = jax.lax.scan(to_next_stop, (x_T, memory(x_T)), ends)
    return jnp.concatenate([x_T[None], xs])


def as_argument(denoise: Denoise) -> Any:
    """The denoiser as a pytree; a plain function in it is leafless, and equal only to itself."""

    def wrap(leaf: Any) -> Any:
        return jax.tree_util.Partial(leaf) if callable(leaf) else leaf

    return jax.tree.map(wrap, denoise)


def check_grid(sigmas: Float[Array, "S"]) -> None:
    """Raises a ValueError for a grid that no sampler can walk, where its values can be seen."""
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
