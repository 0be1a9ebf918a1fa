"""What `sample.py` is asked for: its options, and what follows from them for a trained network."""

import argparse
import dataclasses
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import diffusion as dm
from configs import cli
from configs.build import Trained
from configs.schema import Sampling
from diffusion import images
from diffusion.denoiser import Denoise

SAMPLERS = {
    "euler": dm.Euler(),
    "ddim": dm.Euler(),
    "euler-ancestral": dm.Euler(eta=1.0),
    "heun": dm.Heun(),
    "ancestral": dm.Ancestral(),
    "ddpm": dm.Ancestral(),
    "dpm-2s": dm.DPMSolver2S(),
    "dpm-2m": dm.DPMSolver(2),
    "dpm-3m": dm.DPMSolver(3),
    "dpm-sde": dm.DPMSolverSDE(),
    "unipc": dm.UniPC(2),
    "unipc3": dm.UniPC(3),
    "lms": dm.AdamsBashforth(4),
    "rk45": dm.RK45(),
}


def parse(argv: list[str]) -> argparse.Namespace:
    """The options of the command.

    Raises:
      ValueError: values that no network can make sense of.
    """
    parser = argparse.ArgumentParser(
        "sample.py", description="Draws images from a trained run.", allow_abbrev=False
    )
    parser.add_argument(
        "folder", type=Path, metavar="FOLDER", help="what train.py wrote, or diffusers"
    )
    parser.add_argument("--num-images", type=int, default=64, metavar="N", help="(64)")
    parser.add_argument(
        "--label",
        default=None,
        help="a class, `all` for every class alike, `none` for the null class "
        "(all, where the network knows classes; none, where an image leads)",
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same images (0)")
    parser.add_argument("--sampler", choices=SAMPLERS, help="(the recipe's)")
    parser.add_argument("--num-steps", type=int, metavar="N", help="(the recipe's)")
    parser.add_argument("--guidance", type=float, metavar="SCALE", help="1 is none (the recipe's)")
    parser.add_argument("--step", type=int, help="which checkpoint (the latest)")
    parser.add_argument(
        "--ema",
        metavar="NAME",
        help="which average of the weights; any width in (0, 0.28) where power-function averages "
        "are kept (the recipe's first)",
    )
    parser.add_argument(
        "--batch-size",
        type=int,
        default=64,
        metavar="N",
        help="images drawn at a time, for the memory's sake; changes no image (64)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="(FOLDER/images)")
    parser.add_argument(
        "--gif", action="store_true", help="also write way.gif, from noise to the first 64 images"
    )

    edits = parser.add_argument_group(
        "an image that leads", "Files are of the size that the network draws."
    )
    edits.add_argument("--init-image", type=Path, metavar="FILE", help="draw variations of it")
    edits.add_argument(
        "--strength", type=float, metavar="S", help="how far from it, in (0, 1] (0.6)"
    )
    edits.add_argument(
        "--mask", type=Path, metavar="FILE", help="draw anew only where this image is white"
    )
    edits.add_argument(
        "--num-resample",
        type=int,
        metavar="R",
        help="with --mask: how often each step is walked, so that old and new fit (10)",
    )
    edits.add_argument(
        "--invert", action="store_true", help="find its noise, draw it again, report the error"
    )
    edits.add_argument("--low-res", type=Path, metavar="FILE", help="draw it enlarged")
    edits.add_argument(
        "--interpolate",
        nargs=2,
        metavar="SEED|FILE",
        help="the way from one to the other, in --num-images images",
    )
    cli.add_hosts(parser)
    args = cli.parse(parser, argv)
    if not 0 <= args.seed < 2**32:
        raise ValueError(f"--seed {args.seed} is outside 0 .. 2**32 - 1.")
    for name in ("num_images", "batch_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(args, name)} must be 1 or more.")
    leading = {"--init-image": args.init_image, "--low-res": args.low_res}
    leading["--interpolate"] = args.interpolate
    if len(given := [name for name, value in leading.items() if value is not None]) > 1:
        raise ValueError(f"{' and '.join(given)} exclude each other.")
    ways = {"--strength": args.strength, "--mask": args.mask, "--invert": args.invert or None}
    given = [name for name, value in ways.items() if value is not None]
    if len(given) > 1:
        raise ValueError(f"{' and '.join(given)} exclude each other.")
    if given and args.init_image is None:
        raise ValueError(f"{given[0]} needs --init-image.")
    if args.num_resample is not None and args.mask is None:
        raise ValueError("--num-resample needs --mask.")
    return args


def sampling(recipes: Sampling, args: argparse.Namespace) -> Sampling:
    """The recipe's sampling, with what the command names in its place."""
    named = {"num_steps": args.num_steps, "guidance": args.guidance}
    plain = {"euler", "ddim", "heun", "ancestral", "ddpm"}  # the recipe may have tuned its own kind
    if args.sampler is not None:
        sampler = SAMPLERS[args.sampler]
        if args.sampler not in plain or not isinstance(recipes.sampler, type(sampler)):
            named["sampler"] = sampler
    return dataclasses.replace(recipes, **{k: v for k, v in named.items() if v is not None})


def labels(trained: Trained, label: str | None, num_images: int) -> Int[np.ndarray, "N"]:
    """The class of each image, -1 for none.

    Raises:
      ValueError: the network has no such class.
    """
    num_classes = trained.model.num_classes
    if label == "none" and num_classes is not None and not trained.model.label.has_null:
        raise ValueError("--label none: this network knows no null class; every image needs one.")
    if label == "none" or (label is None and num_classes is None):
        return np.full(num_images, -1, np.int32)
    if num_classes is None:
        raise ValueError(f"--label {label}: this network was trained without classes.")
    if label is None or label == "all":
        return (np.arange(num_images) * num_classes // num_images).astype(np.int32)
    if not label.isdecimal() or int(label) >= num_classes:
        raise ValueError(
            f"--label {label} is not all, none, or a class from 0 to {num_classes - 1}."
        )
    return np.full(num_images, int(label), np.int32)


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
      ValueError, OSError: a file that is no image, or of another size; a strength outside (0, 1].
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
    ends = []
    for word in args.interpolate:
        if word.isdecimal():
            ends.append(noise_of_seed(int(word)))
        else:
            _check_deterministic("--interpolate between images", trained)
            ends.append(read(Path(word)))

    def between(denoise, eps, sigmas, index):
        noises = []
        for word, end in zip(args.interpolate, ends, strict=True):
            end = jnp.broadcast_to(end, eps.shape)
            if not word.isdecimal():
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
    return sampler if isinstance(sampler, dm.Euler | dm.Heun | dm.DPMSolver2S) else dm.Heun()


def _check_deterministic(option: str, trained: Trained) -> None:
    sampler = trained.sampling.sampler
    noisy = isinstance(sampler, dm.Ancestral | dm.DPMSolverSDE)
    if noisy or getattr(sampler, "eta", 0) or getattr(sampler, "churn", 0):
        raise ValueError(
            f"{option} needs a sampler that draws no noise, such as --sampler ddim or heun."
        )
