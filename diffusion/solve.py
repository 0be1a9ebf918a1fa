"""The loop that every sampler runs: a step, folded over the grid from noise to image.

The loop is compiled once for a network and a shape of images. Grids are padded to a common length
and their number of steps is an argument, as are weights, labels, seeds, guidance scales and the
samplers' own settings: none of them compiles anything anew.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Key

from diffusion.denoiser import Denoise

Keys = Key[Array, ""] | Key[Array, "B"]
GRID_LENGTH = 1025
"""Grids of up to 1,024 steps share one compiled loop; longer ones are padded to a multiple."""


class Now(NamedTuple):
    """Where the loop stands.

    Attributes:
      step: its number, from 0.
      sigmas: the padded grid; the step goes from sigmas[step] to sigmas[step + 1].
      num_steps: of the whole grid.
      key: one for the batch or one for each image.
    """

    step: Int[Array, ""]
    sigmas: Float[Array, "S"]
    num_steps: Int[Array, ""]
    key: Keys

    @property
    def sigma(self) -> Float[Array, ""]:
        return self.sigmas[self.step]

    @property
    def sigma_next(self) -> Float[Array, ""]:
        return self.sigmas[self.step + 1]

    def before(self, steps: int) -> Float[Array, ""]:
        """sigma, that many steps ago; the first where there were not so many."""
        return self.sigmas[jnp.maximum(self.step - steps, 0)]

    def noise(self, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
        """The step's unit noise."""
        return unit_noise(self.key, self.step, x)


class Method(NamedTuple):
    """How a sampler steps.

    Attributes:
      step: step(denoise, x, memory, now, settings) -> (x, memory).
      memory: memory(x_T) -> what a step hands to the next, such as earlier estimates.
    """

    step: Callable[..., tuple[Array, Any]]
    memory: Callable[[Array], Any] = lambda x_T: ()


def unit_noise(key: Keys, step: Array | int, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """Noise of a step; with a key for each image it does not depend on the other images."""
    if key.ndim == 0:
        return jax.random.normal(jax.random.fold_in(key, step), x.shape, x.dtype)
    return jax.vmap(lambda k: jax.random.normal(jax.random.fold_in(k, step), x.shape[1:], x.dtype))(
        key
    )


@runtime_checkable
class Steps(Protocol):
    """A sampler, as the loop sees it: a method, and the numbers that it is set to."""

    @property
    def method(self) -> Method: ...

    @property
    def settings(self) -> tuple[float, ...]: ...


def solve(
    sampler: Steps,
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
    num_steps = len(sigmas) - 1
    length = -(-len(sigmas) // GRID_LENGTH) * GRID_LENGTH
    padded = jnp.pad(jnp.asarray(sigmas), (0, length - len(sigmas)))
    return _loop(
        sampler.method,
        as_argument(denoise),
        x_T,
        padded,
        jnp.int32(num_steps),
        key,
        sampler.settings,
    )


@partial(jax.jit, static_argnames="method")
def _loop(
    method: Method,
    denoise: Denoise,
    x_T: Array,
    sigmas: Array,
    num_steps: Array,
    key: Keys,
    settings: tuple[Any, ...],
) -> Array:
    def body(index: Array, carry: tuple[Array, Any]) -> tuple[Array, Any]:
        return method.step(denoise, *carry, Now(index, sigmas, num_steps, key), settings)

    return jax.lax.fori_loop(0, num_steps, body, (x_T, method.memory(x_T)))[0]


def trajectory(
    sampler: Steps,
    denoise: Denoise,
    x_T: Float[Array, "B ..."],
    sigmas: Float[Array, "S"],
    key: Keys,
) -> Float[Array, "S B ..."]:
    """The way from noise to image: x at every sigma of the grid, x_T first.

    Compiled for each number of steps.

    Raises:
      ValueError: the grid does not descend, or goes below 0.
    """
    check_grid(sigmas)
    return _scan(
        sampler.method, as_argument(denoise), x_T, jnp.asarray(sigmas), key, sampler.settings
    )


@partial(jax.jit, static_argnames="method")
def _scan(
    method: Method,
    denoise: Denoise,
    x_T: Array,
    sigmas: Array,
    key: Keys,
    settings: tuple[Any, ...],
) -> Array:
    num_steps = len(sigmas) - 1

    def body(carry: tuple[Array, Any], index: Array) -> tuple[tuple[Array, Any], Array]:
        now = Now(index, sigmas, jnp.int32(num_steps), key)
        carry = method.step(denoise, *carry, now, settings)
        return carry, carry[0]

    _, xs = jax.lax.scan(body, (x_T, method.memory(x_T)), jnp.arange(num_steps))
    return jnp.concatenate([x_T[None], xs])


def as_argument(denoise: Denoise) -> Any:
    """A pytree as it is; a plain function as a leafless pytree that is equal only to itself."""
    return jax.tree_util.Partial(denoise) if jax.tree_util.all_leaves([denoise]) else denoise


def check_grid(sigmas: Float[Array, "S"]) -> None:
    """Raises a ValueError for a grid that no sampler can walk, where its values can be seen."""
    if len(sigmas) < 2:
        raise ValueError(f"a grid of {len(sigmas)} sigmas has no step; it needs two or more.")
    if isinstance(sigmas, Tracer):
        return
    values = np.asarray(sigmas)
    if not (np.diff(values) < 0).all() or values[-1] < 0:
        raise ValueError(
            f"sigmas must descend from noise to image and end in 0 or above, not {values[:4]} ... "
            f"{values[-2:]}."
        )
