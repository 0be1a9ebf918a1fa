"""Draws images from a trained run: `python sample.py runs/digits --label all --num-images 100`.

A folder of diffusers (a DDPM pipeline's, or a UNet2DModel's) serves in place of a run. Writes
grid.png, 00000.png ... and samples.npz (images uint8 (N, H, W, C), labels (N,)).
"""

import argparse
import dataclasses
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8
from tqdm import tqdm

import diffusion as dm
from configs import build, cli, schema
from configs.build import Trained
from diffusion import images
from unet_flax import UNetConfig

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


def main(argv: list[str]) -> None:
    with cli.one_line_errors():
        args = arguments(argv)
        trained = build.trained(args.folder, args.step)
        trained = dataclasses.replace(trained, sampling=chosen_sampling(trained.sampling, args))
        labels = chosen_labels(trained.model, args.label, args.num_images)
        out = args.out or args.folder / "images"
        images.claim_folder(out)
        pixels = draw(trained, labels, seed=args.seed, chunk_size=args.batch_size)
        images.save_samples(out, pixels, labels)
    print(f"{len(pixels)} images of {trained.name}: {out / 'grid.png'}")


def arguments(argv: list[str]) -> argparse.Namespace:
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
        "(all, where the network knows classes)",
    )
    parser.add_argument("--seed", type=int, default=0, help="same seed, same images (0)")
    parser.add_argument("--sampler", choices=SAMPLERS, help="(the recipe's)")
    parser.add_argument("--num-steps", type=int, metavar="N", help="(the recipe's)")
    parser.add_argument("--guidance", type=float, metavar="SCALE", help="1 is none (the recipe's)")
    parser.add_argument("--step", type=int, help="which checkpoint (the latest)")
    parser.add_argument(
        "--batch-size",
        type=int,
        default=64,
        metavar="N",
        help="images drawn at a time, for the memory's sake; changes no image (64)",
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="(FOLDER/images)")
    args = cli.parse(parser, argv)
    if not 0 <= args.seed < 2**32:
        raise ValueError(f"--seed {args.seed} is outside 0 .. 2**32 - 1.")
    for name in ("num_images", "batch_size"):
        if getattr(args, name) < 1:
            raise ValueError(f"--{name.replace('_', '-')} {getattr(args, name)} must be 1 or more.")
    return args


def chosen_sampling(recipes: schema.Sampling, args: argparse.Namespace) -> schema.Sampling:
    """The recipe's sampling, with what the command names put in its place."""
    named = {"num_steps": args.num_steps, "guidance": args.guidance}
    plain = {"euler", "ddim", "heun", "ancestral", "ddpm"}  # the recipe may have tuned its own kind
    if args.sampler is not None:
        sampler = SAMPLERS[args.sampler]
        if args.sampler not in plain or not isinstance(recipes.sampler, type(sampler)):
            named["sampler"] = sampler
    return dataclasses.replace(recipes, **{k: v for k, v in named.items() if v is not None})


def chosen_labels(model: UNetConfig, label: str | None, num_images: int) -> Int[np.ndarray, "N"]:
    """The class of each image, -1 for none.

    Raises:
      ValueError: the network has no such class.
    """
    num_classes = model.num_classes
    if label == "none" and num_classes is not None and not model.label.has_null:
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


def draw(
    trained: Trained, labels: Int[np.ndarray, "N"], *, seed: int, chunk_size: int = 64
) -> UInt8[np.ndarray, "N H W C"]:
    """Draws an image for each label, chunk by chunk.

    An image is a function of (seed, its index, its label): chunks change nothing but memory.

    Args:
      labels: class of each image, -1 for none.
    """
    model, sampling = trained.model, trained.sampling
    shape = (model.image_size, model.image_size, model.in_channels)
    sigmas = sampling.grid(sampling.num_steps)
    chunk_size = min(chunk_size, len(labels))
    pixels = []
    for first in tqdm(range(0, len(labels), chunk_size), "sampling", leave=False, disable=None):
        # the last chunk is filled up, so that every chunk runs the same compiled function
        index = np.minimum(np.arange(first, first + chunk_size), len(labels) - 1)
        noise_keys, sampler_keys = image_keys(jax.random.key(seed), index)
        unit_noise = jax.vmap(partial(jax.random.normal, shape=shape))(noise_keys)
        denoise = build.denoiser(trained, jnp.asarray(labels[index]))
        x_0 = sampling.sampler(denoise, sigmas[0] * unit_noise, sigmas, sampler_keys)
        if not np.isfinite(x_0).all():
            raise FloatingPointError("samples are nan or inf; try less guidance or more steps.")
        pixels.append(images.to_pixels(jax.device_get(x_0)))
    return np.concatenate(pixels)[: len(labels)]


def image_keys(key: jax.Array, index: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Two keys for each image, functions of the seed and its index."""
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(index)
    return keys[:, 0], keys[:, 1]


if __name__ == "__main__":
    main(sys.argv[1:])
