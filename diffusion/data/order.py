"""The order of the images: each epoch is a permutation, cut into batches.

A mixture draws from several groups of images at fixed shares, each in an order of its own.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from jaxtyping import Int


@lru_cache(maxsize=16)  # a batch spans two epochs at most, of each group
def _permutation(seed: int | tuple[int, int], epoch: int, num_images: int) -> np.ndarray:
    """An order of images; seed is that of the run, or of a group too."""
    parts = seed if isinstance(seed, tuple) else (seed,)
    return np.random.default_rng((*parts, epoch)).permutation(num_images)


def indices(seed: int, step: int, batch_size: int, num_images: int) -> Int[np.ndarray, "B"]:
    """The images of batch `step`, a function of (seed, step) alone."""
    positions = step * batch_size + np.arange(batch_size)
    epochs, offsets = np.divmod(positions, num_images)
    order = {epoch: _permutation(seed, epoch, num_images) for epoch in np.unique(epochs).tolist()}
    if len(order) == 1:
        return order[int(epochs[0])][offsets]
    return np.array([order[e][o] for e, o in zip(epochs.tolist(), offsets, strict=True)])


@dataclass(frozen=True, eq=False)
class Mixture:
    """Groups of images, of which every batch has fixed shares.

    The images of a batch go through the groups in turns: `shares[0]` of the first, `shares[1]` of
    the second, and again.

    Attributes:
      groups: the images of each group by its name.
      shares: how many of each group come in a turn; 0 leaves a group out.
    Raises:
      ValueError: no group has a share, a share is negative, or a group with a share is empty.
    """

    groups: Mapping[str, Int[np.ndarray, "_"]]
    shares: tuple[int, ...]

    def __post_init__(self):
        if len(self.shares) != len(self.groups) or min(self.shares) < 0 or not any(self.shares):
            raise ValueError(
                f"shares={self.shares} must be {len(self.groups)} whole numbers, 0 or more, one "
                f"for each of {', '.join(self.groups)}, and not all 0."
            )
        for (name, images), share in zip(self.groups.items(), self.shares, strict=True):
            if share and not len(images):
                raise ValueError(f"shares={self.shares}: there is no {name}; use a share of 0.")

    def indices(self, seed: int, step: int, batch_size: int) -> Int[np.ndarray, "B"]:
        """The images of batch `step`, a function of (seed, step) alone."""
        turn = np.repeat(np.arange(len(self.shares)), self.shares)
        positions = step * batch_size + np.arange(batch_size)
        turns, places = np.divmod(positions, len(turn))
        found = np.empty(batch_size, np.int64)
        starts = np.cumsum([0, *self.shares])
        for group, (images, share) in enumerate(
            zip(self.groups.values(), self.shares, strict=True)
        ):
            is_of_group = turn[places] == group
            nth = turns[is_of_group] * share + places[is_of_group] - starts[group]
            epochs, offsets = np.divmod(nth, max(1, len(images)))
            chosen = [
                _permutation((seed, group), epoch, len(images))[offset]
                for epoch, offset in zip(epochs.tolist(), offsets.tolist(), strict=True)
            ]
            found[is_of_group] = images[np.array(chosen, np.int64)]
        return found
