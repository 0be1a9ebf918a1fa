"""Editing: a given image leads the way from noise to image.

Inpainting and super-resolution are functions from denoise to denoise, after which any sampler
serves; image-to-image and interpolation choose where sampling begins; inversion goes back there.
None of them trains anything.
"""

from dataclasses import dataclass
from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from diffusion.denoiser import Denoise, per_image
from diffusion.guidance import Sigma, pytree
from diffusion.samplers import Ancestral, DPMSolver2S, Euler, Heun, Sampler
from diffusion.solve import Keys, Method, Now, solve


@partial(pytree, data_fields=["denoise", "image", "redrawn"])
@dataclass(frozen=True)
class Inpaint:
    """See `inpaint`."""

    denoise: Denoise
    image: Array
    redrawn: Array

    def __call__(self, x_t: Float[Array, "B ..."], sigma: Sigma) -> Float[Array, "B ..."]:
        redrawn, image = (jnp.broadcast_to(a, x_t.shape) for a in (self.redrawn, self.image))
        return jnp.where(redrawn, self.denoise(x_t, sigma), image)


def inpaint(
    denoise: Denoise,
    image: Float[Array, "B H W C"] | Float[Array, "H W C"],
    redrawn: Bool[Array, "*mask"],
) -> Denoise:
    """Draws the part of an image anew that a mask names; the rest is known.

    The known part's estimate is the image itself, so every sampler brings its noisy version along,
    as the forward process would, and returns it exactly where the grid ends in 0. What is new fits
    what is known much better by `RePaint`.

    Args:
      image: in [-1, 1]; what it holds under the mask is ignored.
      redrawn: True where the image is drawn anew, (H, W) or (B, H, W).
    Raises:
      ValueError: the mask is not as high and wide as the image.
    Source: replacement as Lugmayr et al. 2022, arXiv:2201.09865, equation 8.
    """
    if redrawn.shape[-2:] != image.shape[-3:-1]:
        raise ValueError(
            f"the mask is {redrawn.shape[-2:]} (height, width), but the image is "
            f"{image.shape[-3:-1]}; they must be of one size."
        )
    return Inpaint(denoise, jnp.asarray(image), jnp.asarray(redrawn)[..., None])


@partial(pytree, data_fields=["denoise", "low"])
@dataclass(frozen=True)
class SuperResolve:
    """See `super_resolve`."""

    denoise: Denoise
    low: Array

    def __call__(self, x_t: Float[Array, "B H W C"], sigma: Sigma) -> Float[Array, "B H W C"]:
        x_0_hat = self.denoise(x_t, sigma)
        factor = x_t.shape[-2] // self.low.shape[-2]
        if tuple(factor * n for n in self.low.shape[-3:-1]) != x_t.shape[-3:-1]:
            raise ValueError(
                f"the images are {x_t.shape[-3:-1]} (height, width), which is no whole number of "
                f"times the given {self.low.shape[-3:-1]}."
            )
        drawn = shrunk(x_0_hat, factor)
        return x_0_hat + enlarged(jnp.broadcast_to(self.low, drawn.shape) - drawn, factor)


def super_resolve(
    denoise: Denoise, low: Float[Array, "B h w C"] | Float[Array, "h w C"]
) -> Denoise:
    """Draws a large image that becomes the given small one when its pixels are averaged.

    x_0_hat + A^+ (low - A x_0_hat),  A averages squares of pixels, A^+ repeats each pixel

    Args:
      low: in [-1, 1].
    Raises:
      ValueError: at the call, where the images are no whole number of times as large.
    Source: Wang, Yu & Zhang 2022, arXiv:2212.00490, equation 12 (DDNM).
    """
    return SuperResolve(denoise, jnp.asarray(low))


def shrunk(image: Float[Array, "*B H W C"], factor: int) -> Float[Array, "*B h w C"]:
    """Averages squares of pixels."""
    *batch, height, width, channels = image.shape
    parts = (height // factor, factor, width // factor, factor)
    return image.reshape(*batch, *parts, channels).mean((-4, -2))


def enlarged(image: Float[Array, "*B h w C"], factor: int) -> Float[Array, "*B H W C"]:
    """Repeats each pixel."""
    return image.repeat(factor, axis=-3).repeat(factor, axis=-2)


@dataclass(frozen=True)
class RePaint:
    """Goes back up and down again on the way, so that what is new comes to fit what is known.

    Each stretch of `jump_length` steps is walked `num_resample` times; going up adds fresh noise.

    Attributes:
      sampler: that walks down; one that remembers nothing from step to step.
      num_resample: r, how often each stretch is walked; 1 is the sampler alone.
      jump_length: j, steps of a stretch.
    Source: Lugmayr et al. 2022, arXiv:2201.09865, Algorithm 1 and section 4.2. Deviation: stretches
      are counted from the noise, and the way up is one jump.
    """

    sampler: Sampler = Ancestral()
    num_resample: int = 10
    jump_length: int = 1
    order = 1

    def __post_init__(self):
        if not isinstance(self.sampler, Euler | Ancestral | Heun | DPMSolver2S):
            raise ValueError(
                f"{type(self.sampler).__name__} remembers earlier steps, or chooses its own, and "
                "cannot go back; use Euler, Ancestral, Heun or DPMSolver2S."
            )
        if self.num_resample < 1 or self.jump_length < 1:
            raise ValueError(
                f"num_resample={self.num_resample} and jump_length={self.jump_length} must be 1 or "
                "more."
            )

    @property
    def _down(self) -> Euler | Ancestral | Heun | DPMSolver2S:
        assert isinstance(self.sampler, Euler | Ancestral | Heun | DPMSolver2S)
        return self.sampler

    def nfe(self, num_steps: int) -> int:
        last_stretch = (num_steps - 1) % self.jump_length + 1
        steps_down = self.num_resample * (num_steps - last_stretch) + last_stretch
        return self._down.nfe(steps_down)

    @property
    def method(self) -> Method:
        return _up_and_down(self._down.method, self.num_resample, self.jump_length)

    @property
    def settings(self) -> tuple[float, ...]:
        return self._down.settings

    def __call__(
        self, denoise: Denoise, x_T: Float[Array, "B ..."], sigmas: Float[Array, "S"], key: Keys
    ) -> Float[Array, "B ..."]:
        return solve(self, denoise, x_T, sigmas, key)


@cache
def _up_and_down(down: Method, num_resample: int, jump_length: int) -> Method:
    def step(denoise, x, memory, now: Now, settings):
        def rise() -> Array:
            return x + jnp.sqrt(now.sigma_next**2 - now.sigma**2) * now.noise(x)

        def fall() -> Array:
            return down.step(denoise, x, memory, now, settings)[0]

        return jax.lax.cond(now.sigma_next > now.sigma, rise, fall), memory

    def way(sigmas: Array) -> Array:
        last = len(sigmas) - 1
        walked = [0]
        for start in range(0, last, jump_length):
            landing = min(start + jump_length, last)
            down = range(start + 1, landing + 1)
            times = num_resample if landing < last else 1  # never up from the finished image
            walked += ([*down, start] * times)[:-1]
        return sigmas[np.array(walked)]

    return Method(step, way=way)


def begin_from(
    image: Float[Array, "B ..."],
    eps: Float[Array, "B ..."],
    sigmas: Float[Array, "S"],
    strength: float,
) -> tuple[Float[Array, "B ..."], Float[Array, "R"]]:
    """Where to begin, and what is left of the grid, to draw variations of an image.

    Args:
      image: in [-1, 1].
      eps: unit noise.
      sigmas: the whole grid.
      strength: share of the grid's steps that are walked, in (0, 1]; 1 keeps next to nothing.
    Returns:
      (x_t, sigmas), for any sampler.
    Raises:
      ValueError: strength is outside (0, 1].
    Source: Meng et al. 2021, arXiv:2108.01073 (SDEdit), Algorithm 1.
    """
    if not 0 < strength <= 1:
        raise ValueError(
            f"strength={strength} is outside (0, 1]: 0.3 keeps most of the image, 1 next to none."
        )
    num_steps = max(1, round(strength * (len(sigmas) - 1)))
    left = sigmas[-1 - num_steps :]
    return image + left[0] * eps, left


def invert(
    denoise: Denoise,
    image: Float[Array, "B ..."],
    sigmas: Float[Array, "S"],
    sampler: Euler | Heun | DPMSolver2S = Euler(),  # noqa: B008 (frozen)
) -> Float[Array, "B ..."]:
    """The noise x_T from which a deterministic sampler draws this image: the same ODE upwards.

    The image is taken to be at the last sigma above 0. With `Euler` it is DDIM inversion; `Heun`
    comes back closer, at twice the cost.

    Args:
      image: in [-1, 1].
      sigmas: the grid to draw on afterwards.
    Returns:
      x_T, of standard deviation near sigmas[0].
    Raises:
      ValueError: the sampler draws noise.
    Source: Song, Meng & Ermon 2020, arXiv:2010.02502, section 5.4.
    """
    if getattr(sampler, "eta", 0) or getattr(sampler, "churn", 0):
        raise ValueError(f"{sampler} draws noise, so that no way leads back; set it to 0.")
    return solve(_Upwards(sampler), denoise, image, sigmas, jax.random.key(0))


@dataclass(frozen=True)
class _Upwards:
    sampler: Euler | Heun | DPMSolver2S

    @property
    def method(self) -> Method:
        return self.sampler.method._replace(way=_upwards)

    @property
    def settings(self) -> tuple[float, ...]:
        return self.sampler.settings


def _upwards(sigmas: Array) -> Array:
    return sigmas[sigmas > 0][::-1]


def slerp(
    a: Float[Array, "B ..."], b: Float[Array, "B ..."], weight: Float[Array, "B"]
) -> Float[Array, "B ..."]:
    """From a to b on the sphere, image by image: between unit noises all is unit noise.

    Args:
      weight: 0 is a, 1 is b.
    Source: Shoemake 1985; for diffusion Song, Meng & Ermon 2020, arXiv:2010.02502, appendix D.5.
    """
    axes = tuple(range(1, a.ndim))
    cosine = (a * b).sum(axes) / jnp.sqrt((a * a).sum(axes) * (b * b).sum(axes))
    angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
    # where both point the same way the sphere is flat
    safe = jnp.where(angle > 1e-3, angle, 1.0)
    of_a = jnp.where(angle > 1e-3, jnp.sin((1 - weight) * safe) / jnp.sin(safe), 1 - weight)
    of_b = jnp.where(angle > 1e-3, jnp.sin(weight * safe) / jnp.sin(safe), weight)
    return per_image(of_a, a) * a + per_image(of_b, b) * b
