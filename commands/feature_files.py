"""Features of image sets, kept on the disk so that no image is drawn or described twice."""

import contextlib
import hashlib
import json
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float
from tqdm import tqdm

from commands.feature_networks import FeatureNetwork
from commands.image_sets import ImageSet
from diffusion import sharding
from diffusion.data import cache_lock
from diffusion.run import hosts


class Features(NamedTuple):
    """Features of a set of images, and the logits where the network has some."""

    features: Float[np.ndarray, "N D"]
    logits: Float[np.ndarray, "N K"] | None


def read(
    network: FeatureNetwork,
    images: ImageSet,
    cache_dir: Path,
    *,
    mesh: jax.sharding.Mesh,
    batch_size: int,
) -> Features:
    """The features of all images.

    A call that is killed goes on where it was, and a call with more images reads on. A second call
    at the same time waits for the first.

    Args:
      cache_dir: folder in which they are kept.
      mesh: the devices over which images are sharded.
      batch_size: images that are read and described at a time; divisible by the devices.
    Raises:
      OSError, ValueError: the images cannot be read, or the cache not be written.
    """
    described = f"1 {network.name} {network.protocol} {images.identity} {images.shape}"
    folder = cache_dir / "features" / hashlib.sha256(described.encode()).hexdigest()[:20]
    describe = jax.jit(network.function)
    params = sharding.on_every_device(mesh, network.params)
    with cache_lock.waited_for(folder) if hosts.is_main() else contextlib.nullcontext():
        hosts.any_host(False)  # waits until the main host has the lock
        done = _count(folder)
        hosts.check_same(done, "kept features", "give them one --cache-dir that all of them see")
        total, is_main = images.count, hosts.is_main()
        label = f"{network.name} of {images.name}"
        with tqdm(
            total=total, initial=min(done, total), desc=label, disable=None if is_main else True
        ) as bar:
            while done < total:
                last = min(done + batch_size, total)
                pixels = images.read(done, last)
                filler = np.repeat(pixels[-1:], batch_size - len(pixels), 0)
                padded = np.concatenate([pixels, filler])
                batch = sharding.shard_batch(mesh, {"pixels": padded})["pixels"]
                parts = [
                    None if x is None else x[: len(pixels)]
                    for x in hosts.fetch(describe(params, batch))
                ]
                if is_main:
                    _append(folder, parts)
                done = last
                bar.update(len(pixels))
        hosts.any_host(False)  # waits until the main host has written the last images
    found = [_read(folder, kind, total) for kind in ("features", "logits")]
    assert found[0] is not None
    return Features(found[0], found[1])


def _count(folder: Path) -> int:
    """Number of images whose features are kept; what a killed call wrote in part is cut off."""
    if not (folder / "widths.json").exists():
        return 0
    widths = json.loads((folder / "widths.json").read_text())
    sizes = {kind: (folder / f"{kind}.bin").stat().st_size for kind in widths}
    count = min(size // (4 * widths[kind]) for kind, size in sizes.items())
    for kind, width in widths.items():
        if sizes[kind] != 4 * width * count:  # a whole cache may be read-only
            with open(folder / f"{kind}.bin", "r+b") as file:
                file.truncate(4 * width * count)
    return count


def _append(folder: Path, parts: list[np.ndarray | None]) -> None:
    arrays = {k: x for k, x in zip(("features", "logits"), parts, strict=True) if x is not None}
    begun = (folder / "widths.json").exists()
    for kind, array in arrays.items():
        with open(folder / f"{kind}.bin", "ab" if begun else "wb") as file:
            file.write(np.asarray(array, np.float32).tobytes())
    if not begun:
        widths = {kind: array.shape[1] for kind, array in arrays.items()}
        (folder / ".widths.json").write_text(json.dumps(widths))
        (folder / ".widths.json").replace(folder / "widths.json")


def _read(folder: Path, kind: str, count: int) -> np.ndarray | None:
    widths = json.loads((folder / "widths.json").read_text())
    if kind not in widths:
        return None
    return np.fromfile(folder / f"{kind}.bin", np.float32, count * widths[kind]).reshape(count, -1)
