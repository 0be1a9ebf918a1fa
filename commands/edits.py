"""Image editing for `sample.py`: each kind of edit is a class, which checks its own options.

An edit can replace the denoiser, the sampler, and where sampling starts. The base class `Edit`
changes nothing.
"""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

import diffusion as dm
from commands.pipeline import Pipeline
from diffusion.conditions import TEXTS, null
from diffusion.denoiser import Denoise
from diffusion.pixels import from_pixels
from diffusion.ranges import demand
from diffusion.sampling.samplers import Sampler


class Parts(NamedTuple):
    """What is run: `sampler(denoise, x, sigmas, keys)`.

    Attributes:
      keys: random key of each image; None for those of the images that are drawn.
      first: the first image that is a result; those before it are drawn for its sake.
    """

    sampler: Any
    denoise: Denoise
    x: Float[Array, "B ..."]
    sigmas: Float[Array, "R"]
    keys: Any = None
    first: int = 0


@dataclass(frozen=True)
class Edit:
    """No edit: images are drawn from noise."""

    uses_image = False
    """Whether an image is edited, which then determines the content, so that no class is needed."""

    def denoise(self, denoise: Denoise) -> Denoise:
        """The denoiser to sample with."""
        return denoise

    def sampler(self, sampler: Sampler) -> Any:
        """The sampler to sample with."""
        return sampler

    starts_from_noise = True
    """Whether x at the start is pure noise, made of eps."""

    def start(
        self,
        denoise: Denoise,
        eps: Float[Array, "B ..."],
        sigmas: Float[Array, "S"],
        index: Int[np.ndarray, "B"],
    ) -> tuple[Float[Array, "B ..."], Float[Array, "R"]]:
        """Returns x at the start of sampling, and the grid of sigmas from there.

        Args:
          denoise: the denoiser that `denoise` returned.
          eps: unit noise.
          sigmas: the sampling grid.
          index: index of each image.
        """
        return sigmas[0] * eps, sigmas

    def parts(
        self,
        pipeline: Pipeline,
        batch: dict[str, Any],
        eps: Float[Array, "B ..."],
        sigmas: Float[Array, "S"],
        index: Int[np.ndarray, "B"],
        keys: Any,
    ) -> Parts:
        """What is run for some images.

        Args:
          batch: their labels and conditions.
          eps, sigmas, index: see `start`.
          keys: random key of each image.
        """
        denoise = self.denoise(pipeline.denoiser(**batch))
        x, rest = self.start(denoise, eps, sigmas, index)
        return Parts(self.sampler(pipeline.sampling.sampler), denoise, x, rest)

    def finished(self, pixels: UInt8[np.ndarray, "N H W C"]) -> UInt8[np.ndarray, "N H W C"]:
        """The images that were drawn, with what the edit must not change as it was."""
        return pixels

    def report(self, pixels: UInt8[np.ndarray, "N H W C"]) -> str | None:
        """A line about the images that were drawn, or None."""
        return None


@dataclass(frozen=True)
class Instruct(Edit):
    """Draws from noise, conditioned on an image and an instruction: see `prompts`."""

    uses_image = True


@dataclass(frozen=True)
class Vary(Edit):
    """Variations of an image, see `dm.begin_from`.

    Attributes:
      image: in [-1, 1].
      strength: fraction of the steps that are taken, in (0, 1].
    """

    image: Float[Array, "H W C"]
    strength: float = 0.6
    uses_image = True

    def __post_init__(self):
        dm.begin_from(jnp.zeros(1), jnp.zeros(1), jnp.ones(2), self.strength)  # checks strength

    starts_from_noise = False

    def start(self, denoise, eps, sigmas, index):
        return dm.begin_from(jnp.broadcast_to(self.image, eps.shape), eps, sigmas, self.strength)


@dataclass(frozen=True)
class Inpaint(Edit):
    """Redraws a part of an image, see `dm.inpaint` and `dm.RePaint`.

    Attributes:
      image: in [-1, 1], or its latent.
      redrawn: True where the image, or the latent, is redrawn.
      num_resample: number of times that each step is taken, see `dm.RePaint`.
      base: the sampler whose steps are repeated.
      pixels, mask: the same as pixels. The autoencoder changes all pixels a little; those outside
        the mask are put back.
    Raises:
      ValueError: image and mask differ in size, or the sampler's steps cannot be repeated.
    """

    image: Float[Array, "H W C"]
    redrawn: Bool[Array, "H W"]
    num_resample: int
    base: Sampler
    pixels: UInt8[np.ndarray, "height width C"]
    mask: Bool[np.ndarray, "height width"]
    uses_image = True

    def __post_init__(self):
        if self.num_resample != 1 and (self.base.has_memory or self.base.is_adaptive):
            raise ValueError(
                f"--mask repeats each step {self.num_resample} times, which "
                f"{type(self.base).__name__} cannot; use --sampler ddim, ddpm, heun or dpm-2s, or "
                "--num-resample 1."
            )
        self.sampler(self.base)
        dm.inpaint(lambda x_t, sigma: x_t, self.image, self.redrawn)  # checks the sizes

    def denoise(self, denoise):
        return dm.inpaint(denoise, self.image, self.redrawn)

    def sampler(self, sampler):
        return sampler if self.num_resample == 1 else dm.RePaint(sampler, self.num_resample)

    def finished(self, pixels):
        return np.where(self.mask[..., None], pixels, self.pixels)


@dataclass(frozen=True)
class Invert(Edit):
    """Finds an image's noise, and draws the image from it again, see `dm.invert`.

    Attributes:
      image: in [-1, 1], or its latent.
      base: the sampler.
      pixels: the image.
    Raises:
      ValueError: the sampler draws noise.
    """

    image: Float[Array, "H W C"]
    base: Sampler
    pixels: UInt8[np.ndarray, "height width C"]
    uses_image = True

    def __post_init__(self):
        _check_deterministic("--invert", self.base)

    def start(self, denoise, eps, sigmas, index):
        image = jnp.broadcast_to(self.image, eps.shape)
        return dm.invert(denoise, image, sigmas, _reversible(self.base)), sigmas

    def report(self, pixels):
        error = math.sqrt(np.square(from_pixels(pixels) - from_pixels(self.pixels)).mean())
        return f"reconstruction: {error:.4f} root mean square error, of values in [-1, 1]"


@dataclass(frozen=True)
class ReplayNoise(Edit):
    """Draws an image again under another class or text, with its own noise: `dm.ddpm_invert`.

    Attributes:
      image: in [-1, 1].
      base: the sampler whose noise is found, see `dm.ddpm_invert`.
      skip: share of the steps that are left out, in [0, 1); more keeps more of the image.
      source: conditions that describe the image, of one row; those that are missing are null.
      concepts: what is added or removed, as conditions of one row and how it acts; with any, the
        image is drawn under `source`.
    """

    image: Float[Array, "H W C"]
    base: Sampler
    skip: float
    source: dict[str, np.ndarray]
    concepts: tuple[tuple[dict[str, np.ndarray], dm.Concept], ...] = ()
    uses_image = True

    def __post_init__(self):
        demand("[0, 1)", skip=self.skip)

    def parts(self, pipeline, batch, eps, sigmas, index, keys):
        described = {name: self._described(name, value) for name, value in batch.items()}
        plain = dataclasses.replace(pipeline.sampling, guidance=1.0, image_guidance=1.0)
        unguided = dataclasses.replace(pipeline, sampling=plain, attention=None)
        source, denoise = unguided.denoiser(**described), pipeline.denoiser(**batch)
        if self.concepts:
            changes = [
                (unguided.denoiser(**with_rows(described, rows)), how)
                for rows, how in self.concepts
            ]
            denoise = dm.with_concepts(source, changes)
        image = jnp.broadcast_to(self.image, eps.shape)
        inversion = dm.ddpm_invert(source, image, sigmas, keys, sampler=self.base)
        x, rest, sampler = inversion.begin(self.skip)
        return Parts(sampler, denoise, x, rest)

    def _described(self, name: str, value: Array) -> Array:
        if name in self.source:
            return jnp.broadcast_to(jnp.asarray(self.source[name]), value.shape)
        return null(name, value) if name in ("label", *TEXTS) else value


@dataclass(frozen=True)
class Upscale(Edit):
    """Upscales a small image, see `dm.super_resolve`.

    Attributes:
      low_res: in [-1, 1].
    """

    low_res: Float[Array, "h w C"]
    uses_image = True

    def denoise(self, denoise):
        return dm.super_resolve(denoise, self.low_res)


@dataclass(frozen=True)
class Interpolate(Edit):
    """Interpolates between two images or seeds, by `dm.slerp` of their noise.

    Attributes:
      ends: the two ends, each as unit noise or as an image.
      are_images: whether each end is an image, whose noise is then found by `dm.invert`.
      num_images: number of images, both ends included.
      base: the sampler.
    Raises:
      ValueError: the sampler draws noise, which would differ from image to image.
    """

    ends: tuple[Float[Array, "H W C"], Float[Array, "H W C"]]
    are_images: tuple[bool, bool]
    num_images: int
    base: Sampler
    uses_image = True

    def __post_init__(self):
        _check_deterministic("--interpolate", self.base)

    def start(self, denoise, eps, sigmas, index):
        noises = []
        for end, is_image in zip(self.ends, self.are_images, strict=True):
            noise = jnp.broadcast_to(end, eps.shape)
            if is_image:
                noise = dm.invert(denoise, noise, sigmas, _reversible(self.base)) / sigmas[0]
            noises.append(noise)
        weight = jnp.asarray(index / max(self.num_images - 1, 1), jnp.float32)
        first, last = noises
        return sigmas[0] * dm.slerp(first, last, weight), sigmas


def with_rows(batch: dict[str, Any], rows: dict[str, np.ndarray]) -> dict[str, Any]:
    """The conditions of a batch with some replaced by the same row for each image."""
    return batch | {
        name: jnp.broadcast_to(jnp.asarray(row), batch[name].shape) for name, row in rows.items()
    }


def _reversible(sampler: Sampler) -> Sampler:
    """The sampler for `dm.invert`: the given one if it allows inversion, else Heun."""
    return dm.Heun() if sampler.has_memory or sampler.is_adaptive else sampler


def _check_deterministic(option: str, sampler: Sampler) -> None:
    if not sampler.is_deterministic:
        raise ValueError(
            f"{option} needs a sampler that draws no noise, such as --sampler ddim or heun."
        )
