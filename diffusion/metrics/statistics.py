"""Mean and covariance of feature vectors, gathered batch by batch, and kept in a file.

n vectors have the mean m and the scatter S = sum (x - m)(x - m)^T. Together with n' others, of mean
m' and scatter S', they have the mean m + (m' - m) n' / (n + n') and the scatter
S + S' + (m' - m)(m' - m)^T n n' / (n + n').

Source: Chan, Golub, LeVeque 1979, Updating Formulae and a Pairwise Algorithm for Computing Sample
Variances, eq. 2.1. The file is that of EDM (fid.py, `ref`): an npz of `mu` and `sigma`.
"""

import zipfile
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from diffusion.metrics.features import as_features


@dataclass(frozen=True, eq=False)
class FeatureStatistics:
    """Count, mean and scatter of feature vectors, in float64.

    Attributes:
      count: number of vectors, >= 0, or None where a file does not say; scatter is sigma then, and
        nothing can be added.
      mean: mean vector, width D.
      scatter: sum of the outer products of the deviations from the mean.
      protocol: how the features came about, such as "inception-2015-12-05 pool3"; statistics of
        two protocols are not compared. Empty where it is not known.
    """

    count: int | None
    mean: Float[np.ndarray, "D"]
    scatter: Float[np.ndarray, "D D"]
    protocol: str = ""

    @classmethod
    def empty(cls, width: int, protocol: str = "") -> "FeatureStatistics":
        """Statistics of no vectors, to add to."""
        return cls(0, np.zeros(width), np.zeros((width, width)), protocol)

    @classmethod
    def of(cls, features: Float[Any, "N D"], protocol: str = "") -> "FeatureStatistics":
        """Statistics of all the vectors of an array."""
        return cls.empty(features.shape[-1], protocol).add(features)

    @classmethod
    def of_batches(
        cls, batches: Iterable[Float[Any, "_ D"]], protocol: str = ""
    ) -> "FeatureStatistics":
        """Statistics of all batches of features, of which only a thousand vectors are kept.

        Many small batches take less time so than by `add`, which computes D x D numbers each time.

        Raises:
          ValueError: no batches; features of several widths, or not finite.
        """
        statistics = None
        for features in _joined(batches, 1000):
            statistics = statistics or cls.empty(features.shape[1], protocol)
            statistics = statistics.add(features)
        if statistics is None:
            raise ValueError("there are no batches of features to take statistics of.")
        return statistics

    def add(self, features: Float[Any, "N D"]) -> "FeatureStatistics":
        """The statistics of these vectors and further ones.

        Raises:
          ValueError: features of another width, or not finite; the count is unknown.
        """
        count = self._known_count()
        x = as_features("features", features, self.width)
        if not len(x):
            return self
        total = count + len(x)
        batch_mean = x.mean(0)
        # the distance of the means is one row more, so that one product updates the scatter
        shift = (batch_mean - self.mean) * np.sqrt(count * len(x) / total)
        rows = np.concatenate([x - batch_mean, shift[None]])
        mean = self.mean + (batch_mean - self.mean) * (len(x) / total)
        return FeatureStatistics(total, mean, self.scatter + rows.T @ rows, self.protocol)

    def merge(self, other: "FeatureStatistics") -> "FeatureStatistics":
        """The statistics of the vectors of both.

        Raises:
          ValueError: another width or protocol; a count is unknown.
        """
        check_comparable(self, other)
        n, m = self._known_count(), other._known_count()
        if n + m == 0:
            return self
        mean = self.mean + (other.mean - self.mean) * (m / (n + m))
        shift = (other.mean - self.mean) * np.sqrt(n * m / (n + m))
        scatter = self.scatter + other.scatter + np.outer(shift, shift)
        return FeatureStatistics(n + m, mean, scatter, self.protocol or other.protocol)

    @property
    def width(self) -> int:
        return len(self.mean)

    @property
    def mu(self) -> Float[np.ndarray, "D"]:
        """Mean vector.

        Raises:
          ValueError: there are no vectors.
        """
        if self.count == 0:
            raise ValueError("count=0: statistics of no features have no mean; add features.")
        return self.mean

    @property
    def sigma(self) -> Float[np.ndarray, "D D"]:
        """Covariance, divided by count - 1 as numpy.cov does.

        Raises:
          ValueError: there are fewer than 2 vectors.
        """
        if self.count is None:
            return self.scatter
        if self.count < 2:
            raise ValueError(f"count={self.count}: a covariance takes 2 images or more.")
        return self.scatter / (self.count - 1)

    def save(self, path: Path) -> None:
        """Writes `mu`, `sigma`, and where they are known `count` and `protocol`, as npz.

        Raises:
          OSError: the file cannot be written.
          ValueError: there are fewer than 2 vectors.
        """
        arrays: dict[str, Any] = {"mu": self.mu, "sigma": self.sigma}
        if self.count is not None:
            arrays["count"] = np.int64(self.count)
        if self.protocol:
            arrays["protocol"] = np.str_(self.protocol)
        partial = Path(path).with_name(f".{Path(path).name}")
        with open(partial, "wb") as file:  # given a name, NumPy would append .npz to it
            np.savez(file, **arrays)
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> "FeatureStatistics":
        """Reads what `save` or EDM wrote.

        Raises:
          OSError: there is no such file.
          ValueError: the file is damaged or holds no mean and covariance.
        """
        with open(path, "rb") as opened:
            try:
                with np.load(opened, allow_pickle=False) as file:
                    found = {name: file[name] for name in _NAMES if name in file}
            except _DAMAGED as error:
                cause = str(error).partition("\n")[0]
                raise ValueError(
                    f"{path} cannot be read as an npz of statistics: {cause}."
                ) from None
        for name in ("mu", "sigma"):
            if name not in found:
                raise ValueError(f"{path} has no {name}; statistics are an npz of mu and sigma.")
        return cls(*_from_arrays(path, **found))

    def _known_count(self) -> int:
        if self.count is None:
            raise ValueError(
                "statistics read from a file without `count` cannot be extended; compute them from "
                "the images."
            )
        return self.count


_NAMES = ("mu", "sigma", "count", "protocol")
_DAMAGED = (  # what NumPy raises for files of another kind and for damaged ones
    ValueError,
    TypeError,  # an array in place of an npz, which is no context manager
    EOFError,
    OSError,  # a place before the file's beginning
    RuntimeError,  # an encryption or a compression that zipfile does not know
    MemoryError,
    zipfile.BadZipFile,
    zlib.error,
)


def holds_statistics(path: Path) -> bool:
    """Whether an npz has the arrays of `FeatureStatistics`, and not images.

    Raises:
      OSError: it cannot be opened.
      ValueError: it is damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as arrays:
            return "mu" in arrays.files
    except (zipfile.BadZipFile, ValueError, EOFError, KeyError) as error:
        raise ValueError(f"{path} is no npz, or damaged: {error}.") from None


def _joined(batches: Iterable[Any], num_images: int) -> Iterator[Float[np.ndarray, "_ D"]]:
    """The batches, joined until they have that many images or more."""
    waiting = []
    for features in batches:
        width = waiting[0].shape[1] if waiting else None
        waiting.append(as_features("features", features, width))
        if sum(map(len, waiting)) >= num_images:
            yield np.concatenate(waiting)
            waiting = []
    if waiting:
        yield np.concatenate(waiting)


def _from_arrays(path: Path, mu: Any, sigma: Any, count: Any = None, protocol: Any = "") -> tuple:
    if mu.ndim != 1 or not len(mu) or sigma.shape != 2 * mu.shape:
        raise ValueError(
            f"{path}: mu of shape {mu.shape} and sigma of shape {sigma.shape} must have the shapes "
            "(D,) and (D, D)."
        )
    for name, array in (("mu", mu), ("sigma", sigma)):
        if array.dtype.kind != "f" or not np.isfinite(array).all():
            raise ValueError(f"{path}: {name} must be finite floating-point numbers.")
    mu, sigma = mu.astype(np.float64), sigma.astype(np.float64)
    largest = np.abs(sigma).max()
    if np.abs(sigma - sigma.T).max() > 1e-6 * largest or sigma.diagonal().min() < -1e-6 * largest:
        raise ValueError(f"{path}: sigma is no covariance: not symmetric, or a variance below 0.")
    sigma = (sigma + sigma.T) / 2  # exact where it is symmetric
    if count is None:
        return None, mu, sigma, str(protocol)
    if count.shape != () or count.dtype.kind not in "iu" or count < 2:
        raise ValueError(f"{path}: count={count} must be an integer of 2 or more.")
    return int(count), mu, sigma * (int(count) - 1), str(protocol)


def check_comparable(a: FeatureStatistics, b: FeatureStatistics) -> None:
    """Raises a ValueError for statistics of two widths, or of two protocols that are known."""
    if a.width != b.width:
        raise ValueError(
            f"features of width {a.width} cannot be compared with features of width {b.width}; "
            "take both from the same network."
        )
    if a.protocol and b.protocol and a.protocol != b.protocol:
        raise ValueError(
            f"features of protocol {a.protocol!r} cannot be compared with those of "
            f"{b.protocol!r}; compute both by one protocol."
        )
