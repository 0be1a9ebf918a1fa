"""The measures that `evaluate.py` knows, by name: what each needs, and its numbers."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, Int

from commands.image_sets import ImageSet
from diffusion import metrics

BPD = "bpd"
"""The one measure that asks the run about real images, and compares no images."""

KID_SUBSET = 1000


class Described(NamedTuple):
    """What a network says of a set of images.

    Attributes:
      statistics: mean and covariance of the features.
      features: None where a file has the statistics alone.
      logits: None where the network has none.
      labels: class of each image, or None.
    """

    statistics: metrics.FeatureStatistics
    features: Float[np.ndarray, "N D"] | None = None
    logits: Float[np.ndarray, "N K"] | None = None
    labels: Int[np.ndarray, "N"] | None = None


@dataclass(frozen=True)
class Measure:
    """A measure of images against others.

    Attributes:
      help: what it is, in a few words.
      values: `values(images, reference) -> {name: number}`; "{}" in a name is the network's name.
      network: name of the only network whose features it takes; None for any.
      needs_features: whether the statistics of the reference are not enough.
      needs_labels: whether it needs the classes of the images.
      protocol: constants of the number, which its reader has to know.
      fewest: number of images, of the reference too, with which it can be computed.
    """

    help: str
    values: Callable[[Described, Described], dict[str, float]]
    network: str | None = None
    needs_features: bool = True
    needs_labels: bool = False
    protocol: str = ""
    fewest: int = 2

    def check(self, name: str, network: str, images: ImageSet, num_real: int | None) -> None:
        """Raises a ValueError where the measure lacks something.

        Args:
          name: of the measure.
          network: name of the network whose features are compared.
          num_real: number of real images in the smaller of the two sets that are compared for the
            column `real`; None where the reference has no images.
        """
        if self.network not in (None, network):
            raise ValueError(
                f"--metrics {name} is defined by the features of {self.network}, and these are of "
                f"{network}; choose that by --features, or use fd, kid, pr or dc."
            )
        if self.needs_features and num_real is None:
            raise ValueError(
                f"--metrics {name} needs the reference's images, not their statistics alone; give "
                "a dataset or a folder by --reference, or use fid or fd."
            )
        if self.needs_labels and images.labels is None:
            raise ValueError(f"--metrics {name} needs images with classes, which these have not.")
        if images.count < self.fewest:
            raise ValueError(
                f"--metrics {name} takes {self.fewest} images or more, and {images.name} has "
                f"{images.count}."
            )
        if num_real is not None and num_real < self.fewest:
            raise ValueError(
                f"--metrics {name} compares real images with {self.fewest} others or more, and the "
                f"reference leaves {num_real}; give a larger one."
            )


def _frechet(name: str) -> Callable[[Described, Described], dict[str, float]]:
    return lambda x, y: {name: metrics.frechet_distance(x.statistics, y.statistics)}


def _kid(x: Described, y: Described) -> dict[str, float]:
    assert x.features is not None and y.features is not None
    size = min(KID_SUBSET, len(x.features), len(y.features))
    return {
        "KID-{}": metrics.kernel_inception_distance(x.features, y.features, subset_size=size).mean
    }


def _inception_score(x: Described, _: Described) -> dict[str, float]:
    return {"inception score": metrics.inception_score(x.logits).mean}


def _cmmd(x: Described, y: Described) -> dict[str, float]:
    return {"CMMD": metrics.cmmd(x.features, y.features)}


def _precision_recall(x: Described, y: Described) -> dict[str, float]:
    found = metrics.precision_recall(x.features, y.features)
    return {"precision": found.precision, "recall": found.recall}


def _density_coverage(x: Described, y: Described) -> dict[str, float]:
    found = metrics.density_coverage(x.features, y.features)
    return {"density": found.density, "coverage": found.coverage}


def _agreement(x: Described, _: Described) -> dict[str, float]:
    assert x.logits is not None and x.labels is not None
    return {"class agreement": float((x.logits.argmax(1) == x.labels).mean())}


MEASURES = {
    "fid": Measure(
        "Frechet distance of Inception's features, as papers report it",
        _frechet("FID"),
        network="Inception",
        needs_features=False,
    ),
    "fd": Measure(
        "Frechet distance of any network's features", _frechet("FD-{}"), needs_features=False
    ),
    "kid": Measure(
        "kernel distance, unbiased for few images",
        _kid,
        protocol=f"100 pairs of subsets of {KID_SUBSET} images, or of the smaller set's number",
    ),
    "is": Measure(
        "inception score",
        _inception_score,
        network="Inception",
        needs_features=False,
        protocol="mean of 10 parts",
        fewest=10,
    ),
    "cmmd": Measure("CLIP's maximum mean discrepancy", _cmmd, network="CLIP"),
    "pr": Measure("precision and recall", _precision_recall, protocol="k = 3", fewest=4),
    "dc": Measure("density and coverage", _density_coverage, protocol="k = 5", fewest=6),
    "agreement": Measure(
        "share of images to which the dataset's own classifier gives their class",
        _agreement,
        network="self",
        needs_features=False,
        needs_labels=True,
    ),
}


def measure(
    names: tuple[str, ...], network: str, images: Described, reference: Described
) -> dict[str, float]:
    """All numbers of these measures, by their full names."""
    found: dict[str, float] = {}
    for name in names:
        values = MEASURES[name].values(images, reference)
        found |= {title.format(network): number for title, number in values.items()}
    return found
