"""Runge-Kutta of order 5 with a step size of its own for each image, controlled by its error.

Source: Dormand & Prince 1980, "A family of embedded Runge-Kutta formulae"; step size as Hairer,
Norsett & Wanner 1993, section II.4.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from diffusion.denoiser import per_image

# nodes, weights of the stages, and the difference between the solutions of orders 5 and 4
_NODES = (0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1)
_STAGES = (
    (),
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
_ERROR = (71 / 57600, 0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


def integrate(
    slope: Callable[[Array, Array], Array],
    y: Float[Array, "B ..."],
    end: Float[Array, ""],
    tolerance: float | Float[Array, ""],
) -> tuple[Float[Array, "B ..."], Int[Array, ""]]:
    """Solves dy/ds = slope(s, y) from s = 0 to s = end; to be called under jit.

    A step is accepted if the root mean square over the image of
    error / (tolerance (1 + |y|)) is at most 1.

    Args:
      slope: slope(s, y) -> an array like y, for s (B,) in [0, end].
      y: the value at s = 0.
      end: > 0.
      tolerance: of the error of a step, relative and absolute to each value.
    Returns:
      y at s = end, and the number of calls of slope.
    """
    axes = tuple(range(1, y.ndim))

    def step(carry):
        s, y, size, k_1, calls = carry
        size = jnp.minimum(size, end - s)  # 0 for images that have reached the end
        ks = [k_1]
        y_new = y
        for node, weights in zip(_NODES[1:], _STAGES[1:], strict=True):
            y_new = y + per_image(size, y) * sum(w * k for w, k in zip(weights, ks, strict=True))
            ks.append(slope(s + node * size, y_new))
        error = per_image(size, y) * sum(w * k for w, k in zip(_ERROR, ks, strict=True))
        scale = tolerance * (1 + jnp.maximum(jnp.abs(y), jnp.abs(y_new)))
        ratio = jnp.sqrt(jnp.mean(jnp.square(error / scale), axes))
        accepted = ~(ratio > 1)  # a nan step is accepted: the loop ends, and the result is nan
        factor = jnp.clip(0.9 * jnp.maximum(ratio, 1e-10) ** -0.2, 0.2, 5.0)
        take = per_image(accepted, y)
        y, k_1 = jnp.where(take, y_new, y), jnp.where(take, ks[-1], k_1)
        return jnp.where(accepted, s + size, s), y, size * factor, k_1, calls + 6

    s = jnp.zeros(y.shape[:1], y.dtype)
    start = (s, y, jnp.full_like(s, 0.05 * end), slope(s, y), jnp.int32(1))
    # 1e-6: rounding may leave s just below the end
    _, y, _, _, calls = jax.lax.while_loop(lambda c: (c[0] < end * (1 - 1e-6)).any(), step, start)
    return y, calls
