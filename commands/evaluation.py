"""Compares images with a reference: by which network, and the numbers of all seeds."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Int

from commands import feature_files, feature_networks, likelihood, pipeline
from commands.compared_images import Reference, can_be_sampled, rounded, targets
from commands.evaluate_request import EvaluateRequest
from commands.feature_networks import FeatureNetwork
from commands.image_sets import ImageSet
from commands.measures import BPD, MEASURES, Described, measure
from diffusion import metrics
from diffusion.run import hosts
from diffusion.sharding import Mesh

Describe = Callable[[ImageSet], Described]
"""Gives the features of a set of images."""

BPD_IMAGES = 1000
"""Real images whose bits per dimension are measured unless the command says how many."""


@dataclass(frozen=True)
class Result:
    """The numbers of an evaluation.

    Attributes:
      values: numbers of each seed, by name.
      floor: the same numbers of real images, by name.
      floor_of: which real images these are.
      protocol: what they depend on, by name.
    """

    values: dict[str, list[float]]
    floor: dict[str, float]
    floor_of: str
    protocol: dict[str, str]


def write_statistics(request: EvaluateRequest) -> str:
    """Writes the statistics of the target; returns a line that says so.

    Raises:
      OSError, ValueError: the images or the weights cannot be read.
    """
    if request.features == "self":
        raise ValueError("--statistics needs --features FILE: `self` is another for each dataset.")
    network = feature_networks.read(request.features)
    file, images = request.statistics, targets(request, Reference("none"))[0]
    assert file is not None
    size = rounded(request.sampling.batch_size)
    found = describer(request.cache_dir, network, size)(images).statistics
    if hosts.is_main():
        found.save(file)
    return f"statistics of {found.count} images of {images.name}: {file}"


def network_of(request: EvaluateRequest, reference: Reference, images: ImageSet) -> FeatureNetwork:
    """The network whose features are compared; all that can be wrong is found before it is trained.

    Raises:
      OSError, ValueError: its file cannot be read, the reference has no classes for `self`, or a
        measure lacks something.
    """
    if request.features != "self":
        network = feature_networks.read(request.features)
        _check(request, network.name, reference, images)
        return network
    if reference.images is None or reference.num_classes is None:
        raise ValueError(
            f"--features self needs a reference with classes, and {reference.name} has none; give "
            "a file of weights."
        )
    _check(request, "self", reference, images)
    channels, real = images.shape[-1], reference.images
    if channels != real.shape[-1]:
        raise ValueError(
            f"--features self is trained on {reference.name} with {real.shape[-1]} channels, and "
            f"{images.name} has {channels}; give a file of weights."
        )
    cache = request.cache_dir.expanduser()
    return feature_networks.own(reference.images, reference.num_classes, cache)


def _measures(request: EvaluateRequest, network: str, reference: Reference) -> tuple[str, ...]:
    """The names of the measures that compare features."""
    default = ("fid", "kid") if network == "Inception" else ("fd", "pr")
    if reference.images is None:
        default = default[:1]
    return tuple(name for name in request.metrics or default if name != BPD)


def _check(request: EvaluateRequest, network: str, reference: Reference, images: ImageSet) -> None:
    num_real = None
    if reference.images is not None:
        held_out = reference.held_out
        num_real = reference.images.count // 2 if held_out is None else held_out.count
    for name in _measures(request, network, reference):
        MEASURES[name].check(name, network, images, num_real)


def evaluate(request: EvaluateRequest, reference: Reference, sets: list[ImageSet]) -> Result:
    """Measures each set against the reference, and the reference's own images as the floor.

    Raises:
      OSError, ValueError: weights cannot be read, or a measure lacks something.
    """
    found = Result({}, {}, "", {})
    if request.metrics != (BPD,):
        found = _compared(request, reference, sets)
    if BPD in (request.metrics or ()):
        found = _with_bits(found, request, reference)
    return found


def _compared(request: EvaluateRequest, reference: Reference, sets: list[ImageSet]) -> Result:
    network = network_of(request, reference, sets[0])
    describe = describer(request.cache_dir, network, rounded(request.sampling.batch_size))
    names = _measures(request, network.name, reference)
    whole = _described_reference(describe, reference, network)
    values: dict[str, list[float]] = {}
    for images in sets:
        for title, number in measure(names, network.name, describe(images), whole).items():
            values.setdefault(title, []).append(number)
    floor, floor_of = _floor(describe, reference, network, whole, names, sets[0].count)
    protocol = {
        "images": f"{sets[0].count} of each of {', '.join(images.name for images in sets)}"
        if len(sets) > 1
        else f"{sets[0].count} of {sets[0].name}",
        "pixels": f"{sets[0].shape}, rounded to 0 .. 255{_unlike(sets[0], reference)}",
        "reference": f"{whole.statistics.count or 'unknown number'} of {reference.name}",
        "network": f"{network.name}, {network.protocol}",
        **{name: MEASURES[name].protocol for name in names if MEASURES[name].protocol},
        **(reference.images.protocol if reference.images else {}),
        **sets[0].protocol,
    }
    return Result(values, floor, floor_of, protocol)


def _with_bits(result: Result, request: EvaluateRequest, reference: Reference) -> Result:
    images, sampling = reference.held_out or reference.images, request.sampling
    if images is None or not can_be_sampled(request.target):
        raise ValueError("--metrics bpd needs a run, and a reference of images.")
    images = images.first(min(request.num_images or BPD_IMAGES, images.count))
    trained = pipeline.read(request.target, sampling.step, sampling.ema)
    if pipeline.takes_conditions(trained.model):
        raise ValueError(
            "--metrics bpd: the network takes "
            f"{', '.join(sorted(trained.model.inputs))}; only classes are known of the images."
        )
    trained = dataclasses.replace(trained, sampling=sampling.sampling(trained.sampling))
    size = rounded(sampling.batch_size)
    bits = likelihood.bits_per_dim(trained, images, seed=sampling.seed, batch_size=size)
    protocol = result.protocol | {
        "bits/dim": f"of {images.count} images of {images.name}, under {request.target} "
        f"({trained.name}), between the ends of {trained.sampling.grid}, one probe, seed "
        f"{sampling.seed}",
        **images.protocol,
    }
    return dataclasses.replace(
        result, values=result.values | {"bits/dim": [bits]}, protocol=protocol
    )


def describer(cache_dir: Path, network: FeatureNetwork, batch_size: int) -> Describe:
    """What describes a set of images by the network's features.

    Args:
      cache_dir: folder in which they are kept.
      batch_size: images at a time; a multiple of the devices, see `rounded`.
    """
    cache, mesh = cache_dir.expanduser(), Mesh().make()

    def describe(images: ImageSet) -> Described:
        found = feature_files.read(network, images, cache, mesh=mesh, batch_size=batch_size)
        statistics = metrics.FeatureStatistics.of(found.features, network.protocol)
        return Described(statistics, found.features, found.logits, images.labels)

    return describe


def _described_reference(
    describe: Describe, reference: Reference, network: FeatureNetwork
) -> Described:
    if reference.images is not None:
        return describe(reference.images)
    statistics = reference.statistics
    assert statistics is not None
    if statistics.protocol not in ("", network.protocol):
        raise ValueError(
            f"{reference.name} has features of {statistics.protocol}, but --features "
            f"{network.protocol}; give the same weights."
        )
    return Described(dataclasses.replace(statistics, protocol=network.protocol))


def _unlike(images: ImageSet, reference: Reference) -> str:
    """A warning where the reference has images of another size, which is an easy mistake."""
    if reference.images is None or reference.images.shape[:2] == images.shape[:2]:
        return ""
    return f"; the reference has {reference.images.shape}: its distance is partly that of the sizes"


def _floor(
    describe: Describe,
    reference: Reference,
    network: FeatureNetwork,
    whole: Described,
    names: tuple[str, ...],
    num_images: int,
) -> tuple[dict[str, float], str]:
    """The same numbers of as many real images where there are so many, as most depend on the count.

    They are held-out ones against the reference, or one half of it against the other.
    """
    if reference.held_out is not None:
        images = reference.held_out.first(min(num_images, reference.held_out.count))
        found = measure(names, network.name, describe(images), whole)
        return found, f"{images.count} of {images.name}"
    if whole.features is None:
        return {}, ""
    # `self` has seen both halves, so the share that it knows says nothing
    names = tuple(name for name in names if not MEASURES[name].needs_labels)
    # halves with equally many of each class, as samples have them
    order = np.arange(len(whole.features))
    order = order if whole.labels is None else np.argsort(whole.labels, kind="stable")
    left, right = (np.sort(order[start::2]) for start in (1, 0))
    parts = [_part(whole, rows, network) for rows in (left[:num_images], right)]
    found = measure(names, network.name, *parts)
    counts = [part.statistics.count for part in parts]
    return (
        found,
        f"{counts[0]} of one half of {reference.name} against the {counts[1]} of the other",
    )


def _part(whole: Described, rows: Int[np.ndarray, "n"], network: FeatureNetwork) -> Described:
    features, logits, labels = (None if x is None else x[rows] for x in whole[1:])
    assert features is not None
    statistics = metrics.FeatureStatistics.of(features, network.protocol)
    return Described(statistics, features, logits, labels)
