"""Speed of the input pipeline, without a model, in images per second: `python -m benchmarks.data`.

With random pixels of CIFAR-10's size, measures: reading a batch from memory; reading it and putting
it on the device; the same through the prefetching thread of training; gathering a batch on the
device from a dataset that is kept there, with and without EDM's augmentation.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import diffusion as dm
import unet_flax
from benchmarks import timing
from diffusion import sharding
from diffusion.data import ImageArrays
from diffusion.pixels import from_pixels
from diffusion.run import feed


@dataclasses.dataclass(frozen=True)
class Speed:
    what: str
    images_per_second: float


def speed(call: Callable[[int], Any], batch_size: int, seconds: float) -> float:
    """Images per second of `call(step)`, which returns a batch."""
    jax.block_until_ready(call(0))
    began, step = time.perf_counter(), 1
    while time.perf_counter() - began < seconds:
        jax.block_until_ready(call(step))
        step += 1
    return (step - 1) * batch_size / (time.perf_counter() - began)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=timing.count, default=128)
    parser.add_argument("--seconds", type=float, default=3.0, help="duration of each measurement")
    parser.add_argument("--json", type=timing.json_file, metavar="FILE")
    args = parser.parse_args()
    unet_flax.tune_cpu()  # as train.py does
    rng, batch_size = np.random.default_rng(0), args.batch_size
    pixels = rng.integers(0, 256, (50_000, 32, 32, 3), np.uint8)
    dataset = ImageArrays(pixels, rng.integers(0, 10, 50_000), tuple("0123456789"), batch_size)
    mesh = dm.Mesh(data=1).make()
    ahead = feed.prefetch(dataset, mesh, seed=0, first=0)
    resident = jnp.asarray(pixels)

    @jax.jit
    def chosen(indices: jax.Array) -> jax.Array:
        return from_pixels(resident[indices])

    @jax.jit
    def augmented(indices: jax.Array, key: jax.Array) -> Any:
        return dm.NonLeaky(rate=0.12)(key, {"image": chosen(indices)})

    key = jax.random.key(0)
    calls: dict[str, Callable[[int], Any]] = {
        "read from memory": lambda step: dataset.batch(0, step),
        "and put on the device": lambda step: sharding.shard_batch(mesh, dataset.batch(0, step)),
        "prefetched": lambda step: next(ahead),
        "gathered on the device": lambda step: chosen(dataset.indices(0, step)),
        "and augmented as in EDM": lambda step: augmented(
            dataset.indices(0, step), jax.random.fold_in(key, step)
        ),
    }
    rows = []
    for what, call in calls.items():
        rows.append(row := Speed(what, speed(call, batch_size, args.seconds)))
        print(f"{row.what:24} {row.images_per_second:12,.0f} img/s", flush=True)
    ahead.close()
    if args.json:
        timing.write_json(args.json, "data", rows)


if __name__ == "__main__":
    main()
