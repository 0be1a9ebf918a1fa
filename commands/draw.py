"""Draws images from a pipeline, on all devices."""

import difflib
import math
import unicodedata
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
    sampler = edit.sampler(pipeline.sampling.sampler)
    devices = pipeline.mesh.size
    chunk_size = math.ceil(min(chunk_size, len(labels)) / devices) * devices
    firsts = range(0, len(labels), chunk_size)
    pixels = []
    for start in tqdm(firsts, "sampling", leave=False, disable=None if hosts.is_main() else True):
        # the last chunk is padded to the same shape, so that nothing is compiled again
        row = np.minimum(np.arange(start, start + chunk_size), len(labels) - 1)
        x, sigmas = _run(sampler, pipeline, labels[row], first + row, seed, edit)
        if pipeline.conventions.ends_in_vp:
            x = x / jnp.sqrt(1 + sigmas[-1] ** 2)
        x_0 = hosts.fetch(x)
        if not np.isfinite(x_0).all():
            raise FloatingPointError(
                "samples are nan or inf; try a lower guidance scale or more steps."
            )
        pixels.append(to_pixels(x_0))
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
    sampler = edit.sampler(pipeline.sampling.sampler)
    devices = pipeline.mesh.size
    index = np.minimum(np.arange(math.ceil(len(labels) / devices) * devices), len(labels) - 1)
    steps = partial(dm.trajectory, sampler, num_frames=num_frames)
    (xs, sigmas), _ = _run(steps, pipeline, labels[index], index, seed, edit)
    xs, sigmas = hosts.fetch(xs), jax.device_get(sigmas)
    xs = xs[:, : len(labels)] / np.sqrt(1 + sigmas**2)[:, None, None, None, None]
    return [images.grid(to_pixels(x)) for x in xs]


def picture(pipeline: Pipeline, *, is_film: bool) -> str:
    """The file that shows the samples at a glance: grid.png, or samples.npz where it cannot be.

    Raises:
      ValueError: an animation is asked for of images that cannot be pictures.
    """
    shape = pipeline.model.image_shape
    if images.can_be_png(shape):
        return "grid.png"
    reason = f"images of shape {shape} are neither grey (H, W, 1) nor RGB (H, W, 3)"
    if is_film:
        raise ValueError(f"--gif: {reason}; leave it out.")
    hosts.print_on_main(f"{reason}: they are written to samples.npz alone.")
    return "samples.npz"


def _run(
    sampler: Callable,
    pipeline: Pipeline,
    labels: Int[np.ndarray, "N"],
    index: Int[np.ndarray, "N"],
    seed: int,
    edit: Edit,
) -> Any:
    """Runs the sampler for the images with these indices; returns its result and the grid."""
    sampling = pipeline.sampling
    batch = {"index": index, "label": labels, **pipeline.conditions_of(index)}
    batch = sharding.shard_batch(pipeline.mesh, batch)
    eps, sampler_keys = noise_and_keys(
        jax.random.key(seed, impl=IMPL), batch.pop("index"), pipeline.model.image_shape
    )
    denoise = edit.denoise(pipeline.denoiser(**batch))
    grid, conventions = sampling.grid(sampling.num_steps), pipeline.conventions
    if conventions.starts_at_unit_variance and edit.starts_from_noise:
        eps = eps * jnp.sqrt(1 + 1 / grid[0] ** 2)
    x_T, sigmas = edit.start(denoise, eps, grid, index)
    return sampler(denoise, x_T, sigmas, sampler_keys), sigmas


def labels(
    pipeline: Pipeline, label: str | None, num_images: int, *, uses_image: bool = False
) -> Int[np.ndarray, "N"]:
    """The class of each image, -1 for none.

    Args:
      label: "all" (equally many of each class), "none" (the null class), or a class by its name
        or else its number; None means "none" if `uses_image`, else "all".
      num_images: number of images.
      uses_image: whether an image is edited, which then determines the content.
    Raises:
      ValueError: the network does not have this class.
    """
    num_classes = pipeline.model.num_classes
    if num_classes is None:
        if label not in (None, "none"):
            raise ValueError(f"--label {label}: this network was trained without classes.")
        return np.full(num_images, -1, np.int32)
    if label is None and uses_image:
        if "label" not in pipeline.trains_null:
            raise ValueError("this network was trained with classes; choose one by --label.")
        label = "none"
    if label == "none":
        if not pipeline.model.has_null:
            raise ValueError("--label none: this network has no null class; choose a class.")
        return np.full(num_images, -1, np.int32)
    if label is None or label == "all":
        return (np.arange(num_images) * num_classes // num_images).astype(np.int32)
    return np.full(num_images, _class(label, num_classes, pipeline.class_names), np.int32)


def _class(label: str, num_classes: int, names: tuple[str, ...]) -> int:
    by_name = {unicodedata.normalize("NFC", name): i for i, name in enumerate(names)}
    wanted = unicodedata.normalize("NFC", label)  # macOS splits letters of files from their accents
    if wanted in by_name:
        return by_name[wanted]
    if label.isdecimal() and int(label) < num_classes:
        return int(label)
    end = "."
    if not all(name.isdecimal() for name in names):
        by_lower = {name.lower(): name for name in by_name}
        if close := difflib.get_close_matches(wanted.lower(), by_lower, n=5, cutoff=0.5):
            end = f"; did you mean {', '.join(repr(by_lower[name]) for name in close)}?"
        else:
            more = ", ..." if len(names) > 10 else "."
            end = f"; its classes are {', '.join(map(repr, names[:10]))}{more}"
    raise ValueError(
        f"--label {label} is not all, none, or a class from 0 to {num_classes - 1}{end}"
    )
