"""Null-text inversion: unconditional inputs under which guidance draws a given image again.

    x_T, uncond = dm.null_text_invert(cond, make_uncond, null, image, sigmas, scale=7.5)
    again = dm.Euler()(dm.classifier_free(cond, uncond, 7.5), x_T, sigmas, key)
    edited = dm.Euler()(dm.classifier_free(other, uncond, 7.5), x_T, sigmas, key)

DDIM inversion without guidance gives the pivots x*, one at each sigma. Guidance would leave them,
so the unconditional input of each step is trained until the guided step ends at the next pivot:

min over null of |x*_next - step(x, D)|^2,  D = D(null) + scale (D_cond - D(null))

Source: Mokady et al. 2022, arXiv:2211.09794, section 3.2 and Algorithm 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from diffusion.denoiser import Denoise, Sigma
from diffusion.editing.inversion import ascending_sigmas
from diffusion.pixels import check_image
from diffusion.ranges import demand
from diffusion.sampling.loop import as_pytree, trajectory_along
from diffusion.sampling.samplers import Euler
from diffusion.sampling.step_context import StepContext

MakeUncond = Callable[[Any], Denoise]


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class NullText:
    """The unconditional denoiser, which has an input of its own at each sigma of a grid.

    Attributes:
      make_uncond: the unconditional denoiser of an input.
      nulls: that of every step, stacked on a first axis of N.
      sigmas: those from which the steps start, (N,).
    """

    make_uncond: MakeUncond
    nulls: Any
    sigmas: Float[Array, "N"]

    def __call__(self, x_t: Float[Array, "B ..."], sigma: Sigma) -> Float[Array, "B ..."]:
        sigma = jnp.asarray(sigma)
        if sigma.ndim:
            raise ValueError(
                f"sigma has the shape {sigma.shape}; the null of a step belongs to one sigma for "
                "the batch."
            )
        step = jnp.argmin(jnp.abs(self.sigmas - sigma))
        return self.make_uncond(jax.tree.map(lambda of_steps: of_steps[step], self.nulls))(
            x_t, sigma
        )


def null_text_invert(
    cond: Denoise,
    make_uncond: MakeUncond,
    null: Any,
    image: Float[Array, "B ..."],
    sigmas: Float[Array, "S"],
    *,
    scale: float = 7.5,
    num_inner: int = 10,
    learning_rate: float = 1e-2,
    tolerance: float = 1e-5,
) -> tuple[Float[Array, "B ..."], NullText]:
    """The noise of an image, and the unconditional denoiser that leads from it back to the image.

    Sample with `Euler()` on the same grid and with guidance of the same scale. Each step takes at
    most `num_inner` gradients of the denoiser. Compiled for each number of steps; weights that
    `make_uncond` holds are compiled in unless it is a `jax.tree_util.Partial` of them.

    Args:
      cond: the denoiser under the text that describes the image.
      make_uncond: gives the denoiser of an unconditional input.
      null: where the first step begins, such as the embedding of the empty text: any pytree of
        floats. Each later step begins where the one before has ended.
      image: in [-1, 1].
      sigmas: the grid to sample on afterwards.
      scale: of the guidance, as of `classifier_free`; 1 leaves the null without effect.
      num_inner: most steps of Adam at each sigma, >= 0.
      learning_rate: of Adam at the first step; it falls linearly to half of that.
      tolerance: Adam stops when the mean squared error of every image is below it, in units of
        x_t / sqrt(1 + sigma^2).
    Returns:
      (x_T, uncond).
    Raises:
      ValueError: a number outside its range; as of `invert`.
    Source: arXiv:2211.09794, Algorithm 1 and section 4. Deviations: the learning rate falls over
      the steps of the grid, which is the paper's 1 - i / 100 for its 50; a batch shares Adam's
      number of steps; the tolerance stays, while their code raises it by 2e-5 at each step.
    """
    demand("(-inf, inf)", scale=scale)
    demand("[0, inf)", num_inner=num_inner, learning_rate=learning_rate, tolerance=tolerance)
    check_image("image", image)
    ascending = ascending_sigmas(sigmas, Euler())
    unguided = trajectory_along(ascending, Euler(), cond, image, jax.random.key(0))
    # the image is the pivot at the last sigma above 0, and at 0 too
    pivots = jnp.concatenate([unguided[::-1], image[None]])[: len(sigmas)]
    make_uncond, null = as_pytree(make_uncond), jax.tree.map(jnp.asarray, null)
    sigmas = jnp.asarray(sigmas)
    nulls = _optimise(
        as_pytree(cond),
        make_uncond,
        null,
        pivots,
        sigmas,
        scale,
        num_inner,
        learning_rate,
        tolerance,
    )
    return pivots[0], NullText(make_uncond, nulls, sigmas[:-1])


@jax.jit
def _optimise(
    cond: Denoise,
    make_uncond: MakeUncond,
    null: Any,
    pivots: Array,
    sigmas: Array,
    scale: Array,
    num_inner: Array,
    learning_rate: Array,
    tolerance: Array,
) -> Any:
    num_steps = len(sigmas) - 1

    def body(carry: tuple[Array, Any], index: Array) -> tuple[tuple[Array, Any], Any]:
        x, null = carry
        key = jax.random.key(0)  # no noise is drawn
        at = StepContext(index, sigmas, jnp.int32(num_steps), key)
        D_cond = cond(x, at.sigma)

        def x_next(null: Any) -> Array:
            D_uncond = make_uncond(null)(x, at.sigma)
            D = D_uncond + scale * (D_cond - D_uncond)
            return Euler().step(lambda x_t, sigma: D, x, (), at)[0]

        def loss(null: Any) -> tuple[Array, Array]:
            error = jnp.square(x_next(null) - pivots[index + 1]) / (1 + at.sigma_next**2)
            of_images = error.mean(tuple(range(1, x.ndim)))
            return of_images.sum(), of_images.max()

        adam = optax.adam(learning_rate * (1 - index / (2 * num_steps)))

        def is_unfinished(carry: tuple[Any, Any, Array, Array]) -> Array:
            _, _, worst, count = carry
            return (count < num_inner) & (worst >= tolerance)

        def improve(carry: tuple[Any, Any, Array, Array]) -> tuple[Any, Any, Array, Array]:
            null, state, _, count = carry
            gradient, worst = jax.grad(loss, has_aux=True)(null)
            updates, state = adam.update(gradient, state)
            return optax.apply_updates(null, updates), state, worst, count + 1

        first = null, adam.init(null), jnp.full((), jnp.inf, x.dtype), jnp.int32(0)
        null = jax.lax.while_loop(is_unfinished, improve, first)[0]
        return (x_next(null), null), null

    return jax.lax.scan(body, (pivots[0], null), jnp.arange(num_steps))[1]
