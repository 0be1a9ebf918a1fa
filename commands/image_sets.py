"""Sets of images that are compared: a dataset, files, or samples of a run, in one fixed order."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

import numpy as np
from jaxtyping import Int, Int32, UInt8

from commands import draw
from commands.pipeline import Pipeline
from diffusion.data import checksum, images
from diffusion.data.dataset import Dataset, DatasetConfig
from diffusion.data.sources import open_source
from diffusion.pixels import to_pixels
from diffusion.run import fingerprint


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Images by index.

    Attributes:
      name: what messages call it.
      identity: a text that changes with any of its images.
      count: number of images.
      shape: of an image, (H, W, C).
      read: `read(first, last) -> uint8 (last - first, H, W, C)`.
      labels: class of each image, or None.
      protocol: how they came about, by name.
    """

    name: str
    identity: str
    count: int
    shape: tuple[int, ...]
    read: Callable[[int, int], UInt8[np.ndarray, "n H W C"]]
    labels: Int32[np.ndarray, "N"] | None = None
    protocol: dict[str, str] = field(default_factory=dict)

    def first(self, count: int) -> "ImageSet":
        """Its first images; datasets and files are shuffled, so these are random ones."""
        labels = None if self.labels is None else self.labels[:count]
        return replace(self, count=count, labels=labels)


def of_dataset(name: str, config: DatasetConfig) -> ImageSet:
    """All examples of a dataset, in the order of an epoch of seed 0."""
    return of_loaded(name, config, config.load())


def of_loaded(name: str, config: DatasetConfig, dataset: Dataset) -> ImageSet:
    """The same, of a dataset that this configuration has loaded."""
    shape = dataset.spec["image"].shape
    labels = None
    if "label" in dataset.spec:
        steps = range(-(-len(dataset) // dataset.batch_size))
        batches = [dataset.batch(0, step)["label"] for step in steps]
        labels = np.concatenate(batches)[: len(dataset)]
    identity = f"{len(dataset)} {dataset.checksum()}"
    read, protocol = partial(_rows, dataset), {"data": str(config)}
    return ImageSet(name, identity, len(dataset), shape, read, labels, protocol)


def _rows(dataset: Dataset, first: int, last: int) -> UInt8[np.ndarray, "n H W C"]:
    size, parts = dataset.batch_size, []
    for step in range(first // size, -(-last // size)):
        rows = slice(max(first - step * size, 0), min(last - step * size, size))
        parts.append(to_pixels(dataset.batch(0, step, rows)["image"]))
    return np.concatenate(parts)


def of_files(path: str, channels: int = 3) -> ImageSet:
    """The pictures of a folder, ZIP, tar shards or arrays, as they are, which must be of one size.

    Their order is shuffled, the same for equal counts: the first ones by name may be of one class.

    Args:
      channels: 1 reads them as grey, 3 as RGB.
    Raises:
      OSError, ValueError: one cannot be read, or they differ in size.
    """
    source = open_source(path)
    order = np.random.RandomState(0).permutation(len(source.names)).tolist()

    def pixels(index: int) -> UInt8[np.ndarray, "H W C"]:
        name, content = source.names[index], source.read(index)
        is_array = isinstance(content, np.ndarray)
        image = images.from_array(content) if is_array else images.open_image(content, name)
        return images.flatten(image, name, channels, background=255)

    shape = pixels(0).shape

    def read(first: int, last: int) -> UInt8[np.ndarray, "n H W C"]:
        found = [pixels(index) for index in order[first:last]]
        for index, one in zip(order[first:last], found, strict=True):
            if one.shape != shape:
                raise ValueError(
                    f"{path}: {source.names[index]} is {one.shape[0]} x {one.shape[1]}, but "
                    f"{source.names[0]} {shape[0]} x {shape[1]}; images that are compared must "
                    "have one size."
                )
        return np.stack(found)

    identity = f"shuffled {source.fingerprint} {channels}"
    return ImageSet(path, identity, len(source.names), shape, read)


def of_samples(
    pipeline: Pipeline, folder: Path, *, seed: int, count: int, batch_size: int
) -> ImageSet:
    """Samples of a run: image i is a function of (seed, i), and has class i modulo their number.

    Args:
      batch_size: images drawn at a time.
    """
    num_classes = pipeline.model.num_classes

    def label(index: Int[np.ndarray, "n"]) -> Int32[np.ndarray, "n"]:
        found = np.full(len(index), -1) if num_classes is None else index % num_classes
        return found.astype(np.int32)

    def read(first: int, last: int) -> UInt8[np.ndarray, "n H W C"]:
        whole = -(-(last - first) // batch_size) * batch_size  # nothing is compiled for the rest
        labels = label(np.arange(first, first + whole))
        drawn = draw.draw(pipeline, labels, seed=seed, first=first, chunk_size=batch_size)
        return drawn[: last - first]

    sampling, weights = pipeline.sampling, fingerprint.of_devices(pipeline.params)
    calls = sampling.sampler.nfe(sampling.num_steps)
    conditions = checksum.of_examples(0, pipeline.conditions)
    identity = f"{weights} {pipeline.preconditioning} {pipeline.sampling} {pipeline.conventions}"
    identity += f" {conditions}" if pipeline.conditions else ""
    identity += "" if pipeline.latents is None else f" {pipeline.latents.fingerprint}"
    return ImageSet(
        f"{folder} ({pipeline.name}), seed {seed}",
        f"{identity} {seed}",
        count,
        pipeline.image_shape,
        read,
        None if num_classes is None else label(np.arange(count)),
        {
            "sampler": f"{sampling.sampler}, guidance {sampling.guidance}",
            "grid": f"{sampling.grid}, {sampling.num_steps} steps, {calls} network calls an image",
        },
    )
