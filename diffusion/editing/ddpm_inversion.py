"""Edit-friendly inversion: the noise that a stochastic sampler would have had to draw for an image.

x_k = x_0 + sigma_k eps_k              eps_k independent of each other
shift_k = x_(k+1) - mean(x_k)          mean: the sampler's step without noise

Replayed with the same denoiser, the shifts give the image back exactly. With another denoiser, such
as one of another prompt, they give its edit: what both have in common stays.

Source: Huberman-Spiegelglas et al. 2023, arXiv:2304.06140, section 3.2; with `DPMSolverSDE` it is
  the inversion of LEDITS++, arXiv:2311.16711, section 4.1. Deviation: the last step, where no noise
  is drawn, has a shift too, so that the image comes back exactly.
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
    """A sampler's steps, each with a given shift in place of noise.

    Attributes:
      shifts: what each step of the whole grid adds.
      sampler: the sampler with which the shifts were made.
      sigmas: the whole grid.
      memory: the sampler's memory before the first step that is taken.
      first: number of that step on the whole grid.
    """

    shifts: Any
    sampler: BaseSampler
    sigmas: Any
    memory: Any
    first: Any

    @property
    def order(self) -> int:
        return self.sampler.order

    def init(self, x_T):
        return self.memory

    def step(self, denoise, x, memory, at):
        index = self.first + at.step
        mean, memory = _mean(self.sampler, denoise, x, memory, index, self.sigmas)
        return mean + self.shifts[index], memory


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Inversion:
    """What `ddpm_invert` found.

    Attributes:
      xs: x at every sigma of the grid, the image last.
      shifts: what each step adds to the mean of the next x.
      memories: the sampler's memory before each step.
      sigmas: the grid.
      sampler: the sampler with which the shifts were made.
    """

    xs: Float[Array, "S B ..."]
    shifts: Float[Array, "N B ..."]
    memories: Any
    sigmas: Float[Array, "S"]
    sampler: BaseSampler

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
        memory = jax.tree.map(lambda of_steps: of_steps[first], self.memories)
        replay = Replay(self.shifts, self.sampler, self.sigmas, memory, first)
        return self.xs[first], self.sigmas[first:], replay


def ddpm_invert(
    denoise: Denoise,
    image: Float[Array, "B ..."],
    sigmas: Float[Array, "S"],
    key: Keys,
    *,
    sampler: BaseSampler = Euler(eta=1.0),  # noqa: B008 (frozen)
) -> Inversion:
    """Finds shifts with which a sampler draws this image.

    Args:
      denoise: the denoiser of what the image shows, such as its class or a text that describes it.
      image: in [-1, 1].
      sigmas: the grid to sample on afterwards, which ends at 0.
      key: randomness of the noise, one for the batch or one for each image.
      sampler: one that draws its noise at the end of a step: Euler(eta), with DDPM's noise by
        default, `Ancestral`, or `DPMSolverSDE`, which takes fewer steps.
    Raises:
      ValueError: an image of integers; a grid that does not descend to 0; a sampler that draws no
        noise, or draws it at another place.
    """
    check_image("image", image)
    check_call(image, sigmas, key)
    if sigmas[-1] != 0:
        raise ValueError(
            f"the grid ends at sigma={sigmas[-1]}; inversion needs one that ends at 0."
        )
    _check_sampler(sampler, sigmas)
    return _invert(sampler, as_pytree(denoise), image, jnp.asarray(sigmas), key)


@jax.jit
def _invert(
    sampler: BaseSampler, denoise: Denoise, image: Array, sigmas: Array, key: Keys
) -> Inversion:
    def noised(index: Array | int) -> Array:
        return image + sigmas[index] * unit_noise(key, index, image)

    def body(carry: tuple[Array, Any], index: Array) -> tuple[tuple[Array, Any], Any]:
        mean, memory = _mean(sampler, denoise, *carry, index, sigmas)
        shift = noised(index + 1) - mean
        # as `Replay` adds it up, so that rounding errors do not add up
        return (mean + shift, memory), (*carry, shift)

    first = noised(0), sampler.init(image)
    last, (xs, memories, shifts) = jax.lax.scan(body, first, jnp.arange(len(sigmas) - 1))
    xs = jnp.concatenate([xs, last[0][None]])
    return Inversion(xs, shifts, memories, sigmas, sampler)


def _mean(
    sampler: BaseSampler, denoise: Denoise, x: Array, memory: Any, index: Array, sigmas: Array
) -> tuple[Array, Any]:
    """The sampler's step without its noise, and its memory."""
    num_steps = jnp.int32(len(sigmas) - 1)
    silent = StepContext(index, sigmas, num_steps, jax.random.key(0), jnp.zeros_like(x))
    return sampler.step(denoise, x, memory, silent)


def _check_sampler(sampler: BaseSampler, sigmas: Float[Array, "S"]) -> None:
    why = None
    if sampler.is_adaptive:
        why = "is adaptive"
    elif sampler.is_deterministic:
        why = "draws no noise"
    elif sampler.num_noises != 1:
        why = "draws several noises in a step"
    elif len(sampler.path(sigmas)) != len(sigmas):
        why = "repeats steps"
    elif getattr(sampler, "churn", 0) > 0:
        why = "draws noise before a step (churn)"
    if why:
        raise ValueError(
            f"{sampler} {why}, and has no edit-friendly inversion; use Euler(eta=1.0), Ancestral "
            "or DPMSolverSDE."
        )
