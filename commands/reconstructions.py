"""What training an autoencoder draws and saves: images beside their reconstructions, and itself."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

import diffusion as dm
import unet_flax
from commands import grids, latents
from commands.build import Job
from commands.latents import LatentSpace
from diffusion import metrics
from diffusion.data import images
from diffusion.pixels import from_pixels, to_pixels
from diffusion.run import hosts
from unet_flax import Autoencoder, AutoencoderConfig

MEASURED = 1_000
"""Images, at most, of which scale and shift of the latents, and the PSNR, are measured."""


def of_job(
    job: Job, state: dm.TrainState
) -> tuple[UInt8[np.ndarray, "height width C"], dict[str, float]]:
    """Held-out images, each beside its reconstruction, and the PSNR of these in dB.

    Where the dataset holds none out, they are training images, and the PSNR is named so.

    Raises:
      FloatingPointError: a reconstruction is not finite.
    """
    examples = grids.held_out(job.recipe.data)
    name = "psnr_train" if examples is None else "psnr_held_out"
    pixels = _first(job.images if examples is None else examples)
    space = LatentSpace(_autoencoder(job, state), job.mesh)
    found = space.decode_all(space.encode(pixels))
    if not np.isfinite(found).all():
        raise FloatingPointError("a reconstruction is nan or inf.")
    psnr = metrics.psnr(found.clip(-1, 1), from_pixels(pixels)).mean()
    shown = min(job.recipe.run.num_samples, len(pixels))
    pairs = np.stack([pixels[:shown], to_pixels(found[:shown])], axis=1)
    columns = 2 * max(1, round(np.sqrt(shown / 2)))
    return images.grid(pairs.reshape(-1, *pixels.shape[1:]), columns), {name: float(psnr)}


def save(job: Job, state: dm.TrainState) -> None:
    """Writes the averaged autoencoder with the scale and shift of its latents; see `latents.save`.

    All hosts must call it.
    """
    autoencoder = _autoencoder(job, state)
    space = LatentSpace(autoencoder, job.mesh)
    z = space.encode(_first(job.images))
    if hosts.is_main():
        config = dataclasses.replace(
            autoencoder.config, scaling_factor=float(1 / z.std()), shift_factor=float(z.mean())
        )
        _, params = unet_flax.functional(autoencoder)
        latents.save(unet_flax.module(config, params), job.run_dir)


def _autoencoder(job: Job, state: dm.TrainState) -> Autoencoder:
    """The averaged autoencoder, whose latents are not scaled."""
    recipe = job.recipe
    assert isinstance(recipe.model, AutoencoderConfig)
    config = dataclasses.replace(recipe.model, scaling_factor=1.0, shift_factor=0.0)
    average: Any = hosts.fetch(recipe.ema.choose(state.ema, recipe.ema.names[0]))
    return unet_flax.module(config, jax.tree.map(jnp.asarray, average))


def _first(dataset: Any) -> UInt8[np.ndarray, "N H W C"]:
    """The first images of the order of seed 0."""
    count = min(MEASURED, len(dataset))
    steps = range(-(-count // dataset.batch_size))
    return to_pixels(np.concatenate([dataset.batch(0, step)["image"] for step in steps])[:count])
