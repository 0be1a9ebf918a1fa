"""Bits per dimension of images under a run."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
from tqdm import tqdm

import diffusion as dm
from commands.image_sets import ImageSet
from commands.pipeline import Pipeline
from diffusion import sharding
from diffusion.keys import IMPL
from diffusion.run import hosts


def bits_per_dim(pipeline: Pipeline, images: ImageSet, *, seed: int, batch_size: int) -> float:
    """The mean bits per dimension of images, each under its own class if the run has classes.

    By the probability-flow ODE between the last noise level of the run's sampling grid and the
    first, without guidance and clipping; see `dm.bits_per_dim`.

    Args:
      seed: of the dequantisation and the probes.
      batch_size: images at a time; divisible by the devices.
    Raises:
      ValueError: the images are not of the network's shape, or have no classes and it needs them.
    """
    model = pipeline.model
    if images.shape != model.image_shape:
        raise ValueError(
            f"--metrics bpd: images of {images.shape}, but the network takes {model.image_shape}."
        )
    labels = images.labels
    if model.num_classes is not None and labels is None and not model.has_null:
        raise ValueError(f"--metrics bpd: {images.name} has no classes, which the network needs.")
    sampling = dataclasses.replace(pipeline.sampling, guidance=1.0, clip_x_0=False)
    pipeline = dataclasses.replace(pipeline, sampling=sampling)
    sigmas = np.asarray(sampling.grid(sampling.num_steps))
    sigma_min, sigma_max = float(sigmas[sigmas > 0][-1]), float(sigmas[0])
    key = jax.random.key(seed, impl=IMPL)
    found = []
    firsts = range(0, images.count, batch_size)
    for first in tqdm(firsts, "bits per dimension", disable=None if hosts.is_main() else True):
        last = min(first + batch_size, images.count)
        index = np.minimum(np.arange(first, first + batch_size), images.count - 1)
        pixels = images.read(first, last)[index - first]
        label = np.full(batch_size, -1, np.int32) if labels is None else labels[index]
        keys = jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.asarray(index))
        batch = sharding.shard_batch(pipeline.mesh, {"pixels": pixels, "label": label})
        denoise = pipeline.denoiser(batch["label"])
        bits = dm.bits_per_dim(
            denoise,
            batch["pixels"],
            keys,
            sigma_min=sigma_min,
            sigma_max=sigma_max,
            num_probes=1,  # of each image: the mean over images needs no more
        )
        found.append(hosts.fetch(bits)[: last - first])
    mean = float(np.concatenate(found).mean())
    if not math.isfinite(mean):
        raise FloatingPointError("bits per dimension are nan or inf.")
    return mean
