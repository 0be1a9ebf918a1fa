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
from commands import cli, edits, request
from commands.edits import Edit
from commands.pipeline import Trained
from diffusion import sharding
from diffusion.data import images
from diffusion.run import hosts
from unet_flax import UNetConfig, tune_cpu


def main(argv: list[str]) -> None:
    tune_cpu()
    with cli.one_line_errors(ValueError, OSError):
        args = request.parse(argv)
        hosts.start(args.coordinator, args.num_hosts, args.host_index)
        trained = Trained.read(args.folder, args.step, args.ema)
        trained = dataclasses.replace(trained, sampling=request.sampling(trained.sampling, args))
        edit = edits.edit(args, trained, partial(noise_of_seed, trained))
        labels = request.labels(trained, default_label(args, trained), args.num_images)
        out = args.out or args.folder / "images"
        if hosts.is_main():
            images.claim_folder(out)
        pixels = draw(trained, labels, seed=args.seed, chunk_size=args.batch_size, edit=edit)
        frames = film(trained, labels[:64], seed=args.seed, edit=edit) if args.gif else []
        if hosts.is_main():
            images.save_samples(out, pixels, labels)
            if frames:
                images.save_gif(out / "way.gif", frames)
    hosts.say(f"{len(pixels)} images of {trained.name}: {out / 'grid.png'}")
    if args.invert:
        error = reconstruction_error(pixels, edit.source)
        hosts.say(f"reconstruction: {error:.4f} root mean square error, of values in [-1, 1]")


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
    """Draws an image for each label, chunk by chunk, each shared out among all devices.

    An image is a function of (seed, its index, its label): chunks change nothing but memory.

    Args:
      labels: class of each image, -1 for none.
      edit: how a given image leads.
    """
    sampler = edit.sampler(trained.sampling.sampler)
    devices = trained.mesh.size
    chunk_size = math.ceil(min(chunk_size, len(labels)) / devices) * devices
    firsts = range(0, len(labels), chunk_size)
    pixels = []
    for first in tqdm(firsts, "sampling", leave=False, disable=None if hosts.is_main() else True):
        # the last chunk is filled up, so that every chunk runs the same compiled function
        index = np.minimum(np.arange(first, first + chunk_size), len(labels) - 1)
        x_0 = hosts.fetch(run(sampler, trained, labels[index], index, seed, edit))
        if not np.isfinite(x_0).all():
            raise FloatingPointError("samples are nan or inf; try less guidance or more steps.")
        pixels.append(images.to_pixels(x_0))
    return np.concatenate(pixels)[: len(labels)]


def film(
    trained: Trained, labels: Int[np.ndarray, "N"], *, seed: int, edit: Edit, num_frames: int = 40
) -> list[UInt8[np.ndarray, "height width C"]]:
    """The way from noise to images as grids, noise scaled to be seen: x_t / sqrt(1 + sigma^2)."""
    sampler = edit.sampler(trained.sampling.sampler)
    devices = trained.mesh.size
    index = np.minimum(np.arange(math.ceil(len(labels) / devices) * devices), len(labels) - 1)
    way = partial(dm.trajectory, sampler, num_frames=num_frames)
    xs, sigmas = run(way, trained, labels[index], index, seed, edit)
    xs, sigmas = hosts.fetch(xs), jax.device_get(sigmas)
    xs = xs[:, : len(labels)] / np.sqrt(1 + sigmas**2)[:, None, None, None, None]
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
    told = sharding.shard_batch(trained.mesh, {"index": index, "label": labels})
    eps, sampler_keys = noises(jax.random.key(seed), told["index"], trained.model)
    denoise = edit.denoise(trained.denoiser(told["label"]))
    x_T, sigmas = edit.begin(denoise, eps, sampling.grid(sampling.num_steps), index)
    return sampler(denoise, x_T, sigmas, sampler_keys)


@partial(jax.jit, static_argnames="model")
def noises(key: jax.Array, index: jax.Array, model: UNetConfig) -> tuple[jax.Array, jax.Array]:
    """Unit noise to begin with, and a key for the sampler: functions of the seed and the index."""

    def of_image(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        noise_key, sampler_key = jax.random.split(jax.random.fold_in(key, i))
        shape = (model.image_size, model.image_size, model.in_channels)
        return jax.random.normal(noise_key, shape), sampler_key

    return jax.vmap(of_image)(index)


def noise_of_seed(trained: Trained, seed: int) -> jax.Array:
    """What the first image of a seed is drawn from."""
    return noises(jax.random.key(seed), jnp.arange(1), trained.model)[0][0]


def reconstruction_error(pixels: UInt8[np.ndarray, "N H W C"], image: Any) -> float:
    return math.sqrt(np.square(images.from_pixels(pixels) - np.asarray(image)).mean())


if __name__ == "__main__":
    main(sys.argv[1:])
