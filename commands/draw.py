"""Draws images from a pipeline, on all devices."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8
from tqdm import tqdm

import diffusion as dm
from commands.edits import Edit
from commands.pipeline import Pipeline, noise_and_keys
from diffusion import sharding
from diffusion.data import images
from diffusion.keys import IMPL
from diffusion.pixels import to_pixels
from diffusion.run import hosts


def draw(
    pipeline: Pipeline,
    labels: Int[np.ndarray, "N"],
    *,
    seed: int,
    first: int = 0,
    chunk_size: int = 64,
    edit: Edit = Edit(),  # noqa: B008 (frozen)
) -> UInt8[np.ndarray, "N H W C"]:
    """Draws an image for each label, in chunks that are sharded over all devices.

    An image is a function of (seed, its index, its label). The chunk size affects memory only.

    Args:
      labels: class of each image, -1 for none.
      seed: seed of the noise.
      first: index of the first image.
      chunk_size: images drawn at a time; rounded up to a multiple of the number of devices.
      edit: how images are edited; none by default.
    Raises:
      FloatingPointError: an image is not finite.
    """
    devices = pipeline.mesh.size
    chunk_size = math.ceil(min(chunk_size, len(labels)) / devices) * devices
    firsts = range(0, len(labels), chunk_size)
    pixels = []
    for start in tqdm(firsts, "sampling", leave=False, disable=None if hosts.is_main() else True):
        # the last chunk is padded to the same shape, so that nothing is compiled again
        row = np.minimum(np.arange(start, start + chunk_size), len(labels) - 1)
        x, sigmas, start = _run(_samples, pipeline, labels[row], first + row, seed, edit)
        x = x[start:]
        if pipeline.conventions.ends_in_vp:
            x = x / jnp.sqrt(1 + sigmas[-1] ** 2)
        x_0 = hosts.fetch(x if pipeline.latents is None else pipeline.latents.decode(x))
        if not np.isfinite(x_0).all():
            raise FloatingPointError(
                "samples are nan or inf; try a lower guidance scale or more steps."
            )
        pixels.append(edit.finished(to_pixels(x_0)))
    return np.concatenate(pixels)[: len(labels)]


def film(
    pipeline: Pipeline,
    labels: Int[np.ndarray, "N"],
    *,
    seed: int,
    edit: Edit,
    num_frames: int = 40,
) -> list[UInt8[np.ndarray, "height width C"]]:
    """Grids of x_t / sqrt(1 + sigma^2) from noise to images, as frames of an animation."""
    devices = pipeline.mesh.size
    index = np.minimum(np.arange(math.ceil(len(labels) / devices) * devices), len(labels) - 1)
    frames = partial(dm.trajectory, num_frames=num_frames)
    (xs, sigmas), _, start = _run(frames, pipeline, labels[index], index, seed, edit)
    xs, sigmas = hosts.fetch(xs), jax.device_get(sigmas)
    xs = xs[:, start : start + len(labels)] / np.sqrt(1 + sigmas**2)[:, None, None, None, None]
    if pipeline.latents is not None:
        xs = [pipeline.latents.decode_all(x) for x in xs]
    return [images.grid(to_pixels(x)) for x in xs]


def picture(pipeline: Pipeline, *, is_film: bool) -> str:
    """The file that shows the samples at a glance: grid.png, or samples.npz where it cannot be.

    Raises:
      ValueError: an animation is asked for of images that cannot be pictures.
    """
    shape = pipeline.image_shape
    if images.can_be_png(shape):
        return "grid.png"
    reason = f"images of shape {shape} are neither grey (H, W, 1) nor RGB (H, W, 3)"
    if is_film:
        raise ValueError(f"--gif: {reason}; leave it out.")
    hosts.print_on_main(f"{reason}: they are written to samples.npz alone.")
    return "samples.npz"


def _samples(sampler: Any, *args: Any) -> Any:
    return sampler(*args)


def _run(
    run: Callable,
    pipeline: Pipeline,
    labels: Int[np.ndarray, "N"],
    index: Int[np.ndarray, "N"],
    seed: int,
    edit: Edit,
) -> Any:
    """Calls `run(sampler, denoise, x, sigmas, keys)` for the images with these indices.

    Returns:
      what `run` returns, the grid, and the first image that is a result.
    """
    sampling = pipeline.sampling
    batch = {"index": index, "label": labels, **pipeline.conditions_of(index)}
    batch = sharding.shard_batch(pipeline.mesh, batch)
    eps, sampler_keys = noise_and_keys(
        jax.random.key(seed, impl=IMPL), batch.pop("index"), pipeline.model.image_shape
    )
    grid, conventions = sampling.grid(sampling.num_steps), pipeline.conventions
    if conventions.starts_at_unit_variance and edit.starts_from_noise:
        eps = eps * jnp.sqrt(1 + 1 / grid[0] ** 2)
    parts = edit.parts(pipeline, batch, eps, grid, index, sampler_keys)
    sampler, denoise, x, sigmas, keys, first = parts
    return run(sampler, denoise, x, sigmas, sampler_keys if keys is None else keys), sigmas, first
