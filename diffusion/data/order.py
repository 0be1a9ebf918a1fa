"""The order of the images: each epoch is a permutation, cut into batches."""

from functools import lru_cache

import numpy as np
from jaxtyping import Int


@lru_cache(maxsize=2)  # a batch spans two epochs at most
def _permutation(seed: int, epoch: int, num_images: int) -> np.ndarray:
    return np.random.default_rng((seed, epoch)).permutation(num_images)


def indices(seed: int, step: int, batch_size: int, num_images: int) -> Int[np.ndarray, "B"]:
    """The images of batch `step`, a function of (seed, step) alone."""
    positions = step * batch_size + np.arange(batch_size)
    epochs, offsets = np.divmod(positions, num_images)
    order = {epoch: _permutation(seed, epoch, num_images) for epoch in np.unique(epochs).tolist()}
    if len(order) == 1:
        return order[int(epochs[0])][offsets]
    return np.array([order[e][o] for e, o in zip(epochs.tolist(), offsets, strict=True)])
