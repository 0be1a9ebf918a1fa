"""Draws images from a trained run: `python sample.py runs/digits --label all --num-images 100`.

A folder of diffusers (a DDPM pipeline's, or a UNet2DModel's) serves in place of a run. Writes
grid.png, 00000.png ... and samples.npz (images uint8 (N, H, W, C), labels (N,)). An image may lead:
`--init-image`, `--low-res`, `--interpolate`.
"""

import dataclasses
import math
import sys
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Int, UInt8
from tqdm import tqdm

import diffusion as dm
from configs import build, cli, request
from configs.build import Trained
from configs.request import Edit
from diffusion import images


def main(argv: list[str]) -> None:
    with cli.one_line_errors():
        args = request.parse(argv)
        trained = build.trained(args.folder, args.step, args.ema)
        trained = dataclasses.replace(trained, sampling=request.sampling(trained.sampling, args))
        edit = request.edit(args, trained, partial(noise_of_seed, trained))
        labels = request.labels(trained, default_label(args, trained), args.num_images)
        out = args.out or args.folder / "images"
        images.claim_folder(out)
        pixels = draw(trained, labels, seed=args.seed, chunk_size=args.batch_size, edit=edit)
        images.save_samples(out, pixels, labels)
        if args.gif:
            frames = film(trained, labels[:64], seed=args.seed, edit=edit)
            images.save_gif(out / "way.gif", frames)
    print(f"{len(pixels)} images of {trained.name}: {out / 'grid.png'}")
    if args.invert:
        error = reconstruction_error(pixels, edit.source)
        print(f"reconstruction: {error:.4f} root mean square error, of values in [-1, 1]")


def default_label(args: Any, trained: Trained) -> str | None:
    """Where an image leads, no class is as good as another: none, if the network knows that."""
    leads = args.init_image or args.low_res or args.interpolate
    if args.label is None and leads and trained.model.num_classes is not None:
        if not trained.knows_null:
            raise ValueError("this network was trained with classes; name one by --label.")
        return "none"
    return args.label


def draw(
    trained: Trained,
    labels: Int[np.ndarray, "N"],
    *,
    seed: int,
    chunk_size: int = 64,
    edit: Edit = Edit(),  # noqa: B008 (immutable)
) -> UInt8[np.ndarray, "N H W C"]:
    """Draws an image for each label, chunk by chunk.

    An image is a function of (seed, its index, its label): chunks change nothing but memory.

    Args:
      labels: class of each image, -1 for none.
      edit: how a given image leads.
    """
    sampler = edit.sampler(trained.sampling.sampler)
    chunk_size = min(chunk_size, len(labels))
    pixels = []
    for first in tqdm(range(0, len(labels), chunk_size), "sampling", leave=False, disable=None):
        # the last chunk is filled up, so that every chunk runs the same compiled function
        index = np.minimum(np.arange(first, first + chunk_size), len(labels) - 1)
        x_0 = run(sampler, trained, labels[index], index, seed, edit)
        if not np.isfinite(x_0).all():
            raise FloatingPointError("samples are nan or inf; try less guidance or more steps.")
        pixels.append(images.to_pixels(jax.device_get(x_0)))
    return np.concatenate(pixels)[: len(labels)]


def film(
    trained: Trained, labels: Int[np.ndarray, "N"], *, seed: int, edit: Edit, num_frames: int = 40
) -> list[UInt8[np.ndarray, "height width C"]]:
    """The way from noise to images as grids, noise scaled to be seen: x_t / sqrt(1 + sigma^2)."""
    sampler = edit.sampler(trained.sampling.sampler)
    if isinstance(sampler, dm.RK45):
        raise ValueError("--gif: rk45 chooses its own steps for each image; use another sampler.")
    index = np.arange(len(labels))
    way = partial(dm.trajectory, sampler, num_frames=num_frames)
    xs, sigmas = run(way, trained, labels, index, seed, edit)
    xs = jax.device_get(xs / jnp.sqrt(1 + sigmas**2)[:, None, None, None, None])
    return [images.grid(images.to_pixels(x)) for x in xs]


def run(
    sampler: Callable,
    trained: Trained,
    labels: Int[np.ndarray, "N"],
    index: Int[np.ndarray, "N"],
    seed: int,
    edit: Edit,
) -> Any:
    """Whatever the sampler gives for the images of these numbers."""
    sampling = trained.sampling
    noise_keys, sampler_keys = image_keys(jax.random.key(seed), index)
    eps = jax.vmap(partial(unit_noise, trained))(noise_keys)
    denoise = edit.denoise(build.denoiser(trained, jnp.asarray(labels)))
    x_T, sigmas = edit.begin(denoise, eps, sampling.grid(sampling.num_steps), index)
    return sampler(denoise, x_T, sigmas, sampler_keys)


def image_keys(key: jax.Array, index: np.ndarray) -> tuple[jax.Array, jax.Array]:
    """Two keys for each image, functions of the seed and its index."""
    keys = jax.vmap(lambda i: jax.random.split(jax.random.fold_in(key, i)))(index)
    return keys[:, 0], keys[:, 1]


def unit_noise(trained: Trained, key: jax.Array) -> jax.Array:
    size = trained.model.image_size
    return jax.random.normal(key, (size, size, trained.model.in_channels))


def noise_of_seed(trained: Trained, seed: int) -> jax.Array:
    """What the first image of a seed is drawn from."""
    return unit_noise(trained, image_keys(jax.random.key(seed), np.arange(1))[0][0])


def reconstruction_error(pixels: UInt8[np.ndarray, "N H W C"], image: Any) -> float:
    return math.sqrt(np.square(images.from_pixels(pixels) - np.asarray(image)).mean())


if __name__ == "__main__":
    main(sys.argv[1:])
