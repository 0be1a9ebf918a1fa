"""How a given image leads what `sample.py` draws."""

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

import diffusion as dm
from commands.pipeline import Trained
from commands.request import is_seed
from diffusion.data import images
from diffusion.denoiser import Denoise


class Edit(NamedTuple):
    """How a given image leads; nothing leads by default.

    Attributes:
      denoise: denoise -> denoise.
      begin: begin(denoise, eps, sigmas, index) -> (x_T, sigmas): where the sampler begins, and its
        grid, from unit noise and the number of each image.
      sampler: sampler -> sampler.
      source: the image in [-1, 1], or None.
    """

    denoise: Callable[[Denoise], Denoise] = lambda denoise: denoise
    begin: Callable[..., tuple[Array, Array]] = lambda denoise, eps, sigmas, index: (
        sigmas[0] * eps,
        sigmas,
    )
    sampler: Callable[[Any], Any] = lambda sampler: sampler
    source: Array | None = None


def edit(args: argparse.Namespace, trained: Trained, noise_of_seed: Callable[[int], Array]) -> Edit:
    """What the options say about a leading image.

    Args:
      noise_of_seed: unit noise (H, W, C) of the first image of a seed.
    Raises:
      ValueError, OSError: a file that is no image, or of another size; a strength outside (0, 1];
        a sampler that cannot do what is asked.
    """
    read = partial(_read, trained)
    if args.low_res is not None:
        low = jnp.asarray(images.read(args.low_res, trained.model.in_channels))
        size = trained.model.image_size
        if low.shape[0] != low.shape[1] or size % low.shape[0]:
            raise ValueError(
                f"{args.low_res} is {_size(low)} pixels; the network draws {size} x {size}, which "
                "must be a whole number of times as large."
            )
        return Edit(denoise=lambda denoise: dm.super_resolve(denoise, low), source=low)
    if args.interpolate is not None:
        return _interpolation(args, trained, read, noise_of_seed)
    if args.init_image is None:
        return Edit()
    image = read(args.init_image)
    if args.invert:
        _check_deterministic("--invert", trained)

        def inverted(denoise, eps, sigmas, index):
            given = jnp.broadcast_to(image, eps.shape)
            return dm.invert(denoise, given, sigmas, _one_step(trained)), sigmas

        return Edit(begin=inverted, source=image)
    if args.mask is not None:
        redrawn = jnp.asarray(images.read(args.mask, 1)[..., 0] > 0)
        num_resample = 10 if args.num_resample is None else args.num_resample
        sampler = trained.sampling.sampler
        if num_resample != 1:
            if sampler.has_memory or sampler.is_adaptive:
                raise ValueError(
                    f"--mask walks each step {num_resample} times, which {type(sampler).__name__} "
                    "cannot; use --sampler ddim, ddpm, heun or dpm-2s, or --num-resample 1."
                )
            sampler = dm.RePaint(sampler, num_resample)
        dm.inpaint(lambda x_t, sigma: x_t, image, redrawn)  # refuses another size
        return Edit(
            denoise=lambda denoise: dm.inpaint(denoise, image, redrawn),
            sampler=lambda _: sampler,
            source=image,
        )
    strength = 0.6 if args.strength is None else args.strength
    dm.begin_from(jnp.zeros(1), jnp.zeros(1), jnp.ones(2), strength)  # refuses now, not in the work
    return Edit(
        begin=lambda denoise, eps, sigmas, index: dm.begin_from(
            jnp.broadcast_to(image, eps.shape), eps, sigmas, strength
        ),
        source=image,
    )


def _interpolation(args, trained, read, noise_of_seed) -> Edit:
    # noise drawn on the way differs from image to image, whatever lies between the two ends
    _check_deterministic("--interpolate", trained)
    ends = [
        noise_of_seed(int(word)) if is_seed(word) else read(Path(word)) for word in args.interpolate
    ]

    def between(denoise, eps, sigmas, index):
        noises = []
        for word, end in zip(args.interpolate, ends, strict=True):
            end = jnp.broadcast_to(end, eps.shape)
            if not is_seed(word):
                end = dm.invert(denoise, end, sigmas, _one_step(trained)) / sigmas[0]
            noises.append(end)
        weight = jnp.asarray(index / max(args.num_images - 1, 1), jnp.float32)
        first, last = noises
        return sigmas[0] * dm.slerp(first, last, weight), sigmas

    return Edit(begin=between)


def _read(trained: Trained, path: Path) -> Float[Array, "H W C"]:
    image = jnp.asarray(images.read(path, trained.model.in_channels))
    size = trained.model.image_size
    if image.shape[:2] != (size, size):
        raise ValueError(
            f"{path} is {_size(image)} pixels (width x height), but the network draws "
            f"{size} x {size}; resize it first."
        )
    return image


def _size(image: Array) -> str:
    return f"{image.shape[1]} x {image.shape[0]}"


def _one_step(trained: Trained) -> Any:
    """The sampler to go back with: the run's own where it can, else Heun."""
    sampler = trained.sampling.sampler
    can_invert = sampler.is_deterministic and not (sampler.has_memory or sampler.is_adaptive)
    return sampler if can_invert else dm.Heun()


def _check_deterministic(option: str, trained: Trained) -> None:
    sampler = trained.sampling.sampler
    if not sampler.is_deterministic:
        raise ValueError(
            f"{option} needs a sampler that draws no noise, such as --sampler ddim or heun."
        )
