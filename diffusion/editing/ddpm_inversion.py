"""Edit-friendly inversion: the noise that a stochastic sampler would have had to draw for an image.

x_k = x_0 + sigma_k eps_k              eps_k independent of each other
shift_k = x_(k+1) - mean(x_k)          mean: the sampler's step without noise

Replayed with the same denoiser, the shifts give the image back exactly. With another denoiser, such
as one of another prompt, they give its edit: what both have in common stays.

Source: Huberman-Spiegelglas et al. 2023, arXiv:2304.06140, section 3.2. Deviation: the last step,
where no noise is drawn, has a shift too, so that the image comes back exactly.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffusion.denoiser import Denoise
from diffusion.pixels import check_image
from diffusion.ranges import demand
from diffusion.sampling.euler import Euler
from diffusion.sampling.loop import BaseSampler, as_pytree, check_call
from diffusion.sampling.step_context import StepContext
from diffusion.sampling.unit_noise import Keys, unit_noise


@dataclass(frozen=True)
class Replay(BaseSampler):
    """Euler's steps, each with a given shift in place of noise.

    Attributes:
      shifts: what each step adds, in the order of the steps.
      euler: the sampler with which the shifts were made.
    """

    shifts: Any
    euler: Euler
    order = 1

    def step(self, denoise, x, memory, at):
        return _mean(self.euler, denoise, x, at) + self.shifts[at.step], memory


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Inversion:
    """What `ddpm_invert` found.

    Attributes:
      xs: x at every sigma of the grid, the image last.
      shifts: what each step adds to the mean of the next x.
      sigmas: the grid.
      euler: the sampler with which the shifts were made.
    """

    xs: Float[Array, "S B ..."]
    shifts: Float[Array, "N B ..."]
    sigmas: Float[Array, "S"]
    euler: Euler

    def begin(self, skip: float = 0.0) -> tuple[Float[Array, "B ..."], Float[Array, "R"], Replay]:
        """(x, sigmas, sampler) to draw the image or its edit: `sampler(denoise, x, sigmas, key)`.

        Args:
          skip: share of the steps that are left out, in [0, 1); more keeps more of the image.
        Raises:
          ValueError: skip is outside its range, or leaves no step.
        """
        demand("[0, 1)", skip=skip)
        first = round(skip * len(self.shifts))
        if first == len(self.shifts):
            raise ValueError(f"skip={skip} leaves none of {first} steps; use less.")
        return self.xs[first], self.sigmas[first:], Replay(self.shifts[first:], self.euler)


def ddpm_invert(
    denoise: Denoise,
    image: Float[Array, "B ..."],
    sigmas: Float[Array, "S"],
    key: Keys,
    *,
    eta: float = 1.0,
) -> Inversion:
    """Finds shifts with which `Euler(eta)` draws this image.

    Args:
      denoise: the denoiser of what the image shows, such as its class or a text that describes it.
      image: in [-1, 1].
      sigmas: the grid to sample on afterwards, which ends at 0.
      key: randomness of the noise, one for the batch or one for each image.
      eta: in (0, 1]; 1 draws as much new noise as DDPM.
    Raises:
      ValueError: an image of integers; a grid that does not descend to 0; eta is outside its range.
    """
    check_image("image", image)
    demand("(0, 1]", eta=eta)
    euler = Euler(eta=eta)
    check_call(image, sigmas, key)
    if sigmas[-1] != 0:
        raise ValueError(
            f"the grid ends at sigma={sigmas[-1]}; inversion needs one that ends at 0."
        )
    sigmas = jnp.asarray(sigmas)
    xs, shifts = _invert(euler, as_pytree(denoise), image, sigmas, key)
    return Inversion(xs, shifts, sigmas, euler)


@jax.jit
def _invert(
    euler: Euler, denoise: Denoise, image: Array, sigmas: Array, key: Keys
) -> tuple[Array, Array]:
    num_steps = len(sigmas) - 1
    indices = jnp.arange(num_steps + 1)
    xs = jax.lax.map(lambda k: image + sigmas[k] * unit_noise(key, k, image), indices)

    def shift(index: Array) -> Array:
        at = StepContext(index, sigmas, jnp.int32(num_steps), key)
        return _mean(euler, denoise, xs[index], at)

    # one step after the other, since all at once would take the memory of a large batch
    means = jax.lax.map(shift, indices[:-1])
    return xs, xs[1:] - means


def _mean(euler: Euler, denoise: Denoise, x: Array, at: StepContext) -> Array:
    """Euler's step without its noise."""
    silent = at._replace(given_noise=jnp.zeros_like(x))
    return euler.step(denoise, x, (), silent)[0]
