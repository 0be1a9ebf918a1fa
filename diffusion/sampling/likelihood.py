"""Likelihood: bits per dimension of images under the model.

Images are pixels / 127.5 - 1, so a pixel's bin is 2 / 255 wide: a density p(x_0) of D values in
[-1, 1] means -log2 p(x_0) / D + log2(127.5) bits per dimension.
"""

import math
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

from diffusion.adjusted import with_variance
from diffusion.denoiser import Denoise
from diffusion.keys import mappable
from diffusion.pixels import BIN, check_image, from_pixels, log_bin
from diffusion.ranges import demand, demand_ascent
from diffusion.sampling.loop import as_pytree, check_grid
from diffusion.sampling.ode import integrate
from diffusion.sampling.unit_noise import Keys, check_key, unit_noise
from diffusion.variance import decoder_nats, step_nats


def bits_per_dim(
    denoise: Denoise,
    pixels: UInt8[Array, "B ..."],
    key: Keys,
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    tolerance: float = 1e-4,
    num_probes: int | None = None,
) -> Float[Array, "B"]:
    """Bits per dimension by the probability-flow ODE, of pixels dequantised uniformly.

    In the mean over the dequantising noise, an upper bound of -log2 p(pixels) per dimension.

    Args:
      pixels: 0 to 255.
      key: for the dequantising noise and the probe of the trace, one or one for each image.
      sigma_min, sigma_max, tolerance, num_probes: see `log_density`.
    Source: Theis et al. 2015, arXiv:1511.01844, section 3.1 (dequantisation); Song et al. 2021,
      arXiv:2011.13456, section 4.3.
    """
    check_key(key, pixels)
    keys = jax.random.split(key) if key.ndim == 0 else jax.vmap(jax.random.split)(key)
    noise_key, probe_key = keys[..., 0], keys[..., 1]
    image = from_pixels(jnp.asarray(pixels))
    image = image + BIN * (uniform(noise_key, image) - 0.5)
    log_p, _ = log_density(
        denoise,
        image,
        probe_key,
        sigma_min=sigma_min,
        sigma_max=sigma_max,
        tolerance=tolerance,
        num_probes=num_probes,
    )
    return -log_p / (image[0].size * math.log(2)) + math.log2(127.5)


def uniform(key: Keys, x: Float[Array, "B ..."]) -> Float[Array, "B ..."]:
    """Uniform draws in [0, 1), of the shape and type of x."""
    if key.ndim == 0:
        return jax.random.uniform(key, x.shape, x.dtype)
    return jax.vmap(lambda k: jax.random.uniform(k, x.shape[1:], x.dtype))(mappable(key))


def log_density(
    denoise: Denoise,
    image: Float[Array, "B ..."],
    key: Keys,
    *,
    sigma_min: float = 0.002,
    sigma_max: float = 80.0,
    tolerance: float = 1e-4,
    num_probes: int | None = None,
) -> tuple[Float[Array, "B"], Int[Array, ""]]:
    """ln p(x_0) in nats, by the change of variables along the probability-flow ODE.

    ln p(x_0) = ln N(x_T; 0, sigma_max^2) + integral of div (x - D) / sigma d sigma

    The divergence of images with up to 64 values is exact, by a backward pass for each value. That
    of larger ones is Hutchinson's estimate: the mean over Rademacher probes of each image, the same
    at every sigma. Its variance falls as 1 / num_probes, and is 0 if the Jacobian of D is diagonal.

    Args:
      image: in [-1, 1], taken to be at sigma_min.
      key: for the probes, one or one for each image.
      sigma_min, sigma_max: ends of the integral; sigma_max should be far above the images' values.
      tolerance: of the integrator, see `integrate`.
      num_probes: probes for each image, >= 1, in place of the exact divergence; None for that, or
        for one probe where images have more than 64 values.
    Returns:
      (ln p (B,), number of calls of denoise); each is one forward pass, and one backward pass for
      each probe or value.
    Source: Song et al. 2021, arXiv:2011.13456, section 4.3 and appendix D.2.
    """
    demand("(0, inf)", sigma_min=sigma_min, sigma_max=sigma_max)
    demand_ascent(sigma_min=sigma_min, sigma_max=sigma_max)
    demand("(0, 1)", tolerance=tolerance)
    if num_probes is not None and (isinstance(num_probes, bool) or num_probes < 1):
        raise ValueError(f"num_probes={num_probes} must be 1 or more, or None.")
    check_image("image", image)
    check_key(key, image)
    if num_probes is None and image[0].size <= EXACT_SIZE:
        one_hot = jnp.eye(image[0].size, dtype=image.dtype).reshape(-1, 1, *image.shape[1:])
        probes = jnp.broadcast_to(one_hot, (image[0].size, *image.shape))
        weight = 1.0  # the trace is the sum of the diagonal
    else:
        keys = [key, *(_folded(key, index) for index in range(1, num_probes or 1))]
        draws = jnp.stack([uniform(each, image) for each in keys])
        probes = jnp.where(draws < 0.5, -1.0, 1.0).astype(image.dtype)
        weight = 1 / len(keys)
    return _log_density(as_pytree(denoise), image, probes, weight, sigma_min, sigma_max, tolerance)


EXACT_SIZE = 64
"""Images of up to this many values have an exact divergence by default."""


def _folded(key: Keys, index: int) -> Keys:
    """The key, or each image's key, of a further probe."""
    return (
        jax.vmap(partial(jax.random.fold_in, data=index))(key)
        if key.ndim
        else (jax.random.fold_in(key, index))
    )


@jax.jit
def _log_density(denoise, image, probes, weight, sigma_min, sigma_max, tolerance):
    batch, size = image.shape[0], image[0].size

    def slope(s: Array, y: Array) -> Array:  # s = ln(sigma / sigma_min), y = image and ln p
        x = y[:, :-1].reshape(image.shape)
        D, pull_back = jax.vjp(lambda x: denoise(x, sigma_min * jnp.exp(s)), x)
        pulled = jax.vmap(lambda probe: pull_back(probe)[0])(probes)
        trace = weight * (pulled * probes).reshape(len(probes), batch, -1).sum((0, 2))
        return jnp.concatenate([(x - D).reshape(batch, -1), size - trace[:, None]], axis=1)

    start = jnp.concatenate([image.reshape(batch, -1), jnp.zeros((batch, 1), image.dtype)], axis=1)
    end, calls = integrate(slope, start, jnp.log(sigma_max / sigma_min), tolerance)
    x_T, gained = end[:, :-1], end[:, -1]
    log_normal = -jnp.square(x_T / sigma_max).sum(1) / 2
    return log_normal - size * (math.log(2 * math.pi) / 2 + jnp.log(sigma_max)) + gained, calls


class Bound(NamedTuple):
    """The terms of the variational bound, each (B,) in bits per dimension.

    Attributes:
      prior: divergence of the noisiest image from pure noise.
      steps: divergences of the sampler's steps from the posteriors.
      decoder: cost of the pixels given the last noisy image.
    """

    prior: Float[Array, "B"]
    steps: Float[Array, "B"]
    decoder: Float[Array, "B"]

    @property
    def total(self) -> Float[Array, "B"]:
        return self.prior + self.steps + self.decoder


def variational_bound(
    denoise: Denoise,
    pixels: UInt8[Array, "B ..."],
    sigmas: Float[Array, "S"],
    key: Keys,
    *,
    interpolation: float | None = 0.0,
) -> Bound:
    """Upper bound of the bits per dimension under `Ancestral(interpolation)` on this grid.

    prior = |x_0|^2 / (2 sigma^2) at the first sigma
    steps = sum of the divergences of the sampler's steps, one x_t a step; with the small variance
    (1 / sigma_next^2 - 1 / sigma^2) |x_0 - D(x_t; sigma)|^2 / 2
    decoder = -ln P(pixel's bin) under N(D, sigma^2) at the last sigma above 0, or, where the
    variance is learned, under N(D, its own); the bins of 0 and 255 are open

    Args:
      pixels: 0 to 255.
      sigmas: the grid, ending in 0; the last sigma above 0 should be near a pixel's bin, 0.01.
      key: for the noise, one or one for each image.
      interpolation: of the log-variance, as in `Ancestral`: 0 small, 1 large, None the network's.
    Raises:
      ValueError: the grid does not descend to 0; an interpolation outside [0, 1], or None where the
        denoiser has learned no variance.
    Source: Ho et al. 2020, arXiv:2006.11239, equations 5, 8 and 13; the small variance's cost in
      these terms Kingma et al. 2021, arXiv:2107.00630, equation 13; learned Nichol & Dhariwal 2021,
      arXiv:2102.09672, section 3.1.
    """
    check_grid(sigmas)
    check_key(key, pixels)
    if len(sigmas) < 3 or np.asarray(sigmas)[-1] != 0:
        raise ValueError("the bound needs a grid of two sigmas or more that ends in 0.")
    if interpolation is not None:
        demand("[0, 1]", interpolation=interpolation)
        interpolation = float(interpolation)
    image = from_pixels(jnp.asarray(pixels))
    return _bound(as_pytree(denoise), image, jnp.asarray(sigmas), key, interpolation)


@jax.jit
def _bound(denoise, image, sigmas, key, given):
    axes = tuple(range(1, image.ndim))
    num_sigmas = len(sigmas) - 1  # those above 0
    bits = image[0].size * math.log(2)

    def estimate(index: Array | int) -> tuple[Array, Any]:
        x_t = image + sigmas[index] * unit_noise(key, index, image)
        if given is None:
            return with_variance(denoise, x_t, sigmas[index])
        return denoise(x_t, sigmas[index]), given

    def shrinkage(index: Array | int) -> Array:
        return (sigmas[index] - sigmas[index + 1]) / sigmas[index]

    def add(index: Array, nats: Array) -> Array:
        q = sigmas[index + 1] / sigmas[index]
        return nats + step_nats(image, *estimate(index), sigmas[index], q, shrinkage(index)).sum(
            axes
        )

    steps = jax.lax.fori_loop(0, num_sigmas - 1, add, jnp.zeros(image.shape[:1], image.dtype))
    prior = jnp.square(image / sigmas[0]).sum(axes) / 2
    last = num_sigmas - 1
    x_0_hat, learned = estimate(last)
    if given is None:
        nats = decoder_nats(image, x_0_hat, learned, sigmas[last], shrinkage(last - 1))
    else:
        nats = -log_bin(image, x_0_hat, sigmas[last])
    decoder = nats.sum(axes)
    return Bound(prior / bits, steps / bits, decoder / bits)
