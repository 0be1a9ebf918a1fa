"""Draws images from a trained run: `python sample.py runs/digits --label all --num-images 100`.

Writes grid.png, 00000.png ... and samples.npz (images uint8 (N, H, W, C), labels (N,)).
"""

import argparse
import dataclasses
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8
from tqdm import tqdm

import diffusion as dm
from configs import Recipe, build, cli, schema
from diffusion import checkpoint, images
from diffusion.denoiser import Network

SAMPLERS = {
    "euler": dm.Euler(),
    "ddim": dm.Euler(),
    "heun": dm.Heun(),
    "ancestral": dm.Ancestral(),
    "ddpm": dm.Ancestral(),
}


def main(argv: list[str]) -> None:
    with cli.one_line_errors():
        args = arguments(argv)
        recipe = schema.from_json(checkpoint.read_config(args.run_dir))
        recipe = dataclasses.replace(recipe, sampling=chosen_sampling(recipe.sampling, args))
        labels = chosen_labels(recipe, args.label, args.num_images)
        network, average, step = build.averaged_network(recipe, args.run_dir, args.step)
        out = args.out or args.run_dir / "images"
        images.claim_folder(out)
        pixels = draw(recipe, network, average, labels, seed=args.seed, chunk_size=args.batch_size)
        images.save_samples(out, pixels, labels)
    print(f"{len(pixels)} images of step {step}: {out / 'grid.png'}")


def arguments(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "sample.py", description="Draws images from a trained run.", allow_abbrev=False
    )
    parser.add_argument("run_dir", type=Path, metavar="RUN_DIR", help="what train.py wrote")
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
    parser.add_argument("--out", type=Path, metavar="DIR", help="(RUN_DIR/images)")
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
    if args.sampler is not None and not isinstance(recipes.sampler, type(SAMPLERS[args.sampler])):
        named["sampler"] = SAMPLERS[args.sampler]
    return dataclasses.replace(recipes, **{k: v for k, v in named.items() if v is not None})


def chosen_labels(recipe: Recipe, label: str | None, num_images: int) -> Int[np.ndarray, "N"]:
    """The class of each image, -1 for none.

    Raises:
      ValueError: the network has no such class.
    """
    num_classes = recipe.model.num_classes
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
    recipe: Recipe,
    network: Network,
    params: Any,
    labels: Int[np.ndarray, "N"],
    *,
    seed: int,
    chunk_size: int = 64,
) -> UInt8[np.ndarray, "N H W C"]:
    """Draws an image for each label, chunk by chunk.

    An image is a function of (seed, its index, its label): chunks change nothing but memory.

    Args:
      params: the weights, usually the averaged ones.
      labels: class of each image, -1 for none.
    """
    model, sampling = recipe.model, recipe.sampling
    shape = (model.image_size, model.image_size, model.in_channels)
    sigmas = sampling.grid(sampling.num_steps)
    chunk_size = min(chunk_size, len(labels))
    pixels = []
    for first in tqdm(range(0, len(labels), chunk_size), "sampling", leave=False, disable=None):
        # the last chunk is filled up, so that every chunk runs the same compiled function
        index = np.minimum(np.arange(first, first + chunk_size), len(labels) - 1)
        noise_keys, sampler_keys = image_keys(jax.random.key(seed), index)
        unit_noise = jax.vmap(partial(jax.random.normal, shape=shape))(noise_keys)
        denoise = build.denoiser(recipe, network, params, jnp.asarray(labels[index]))
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
