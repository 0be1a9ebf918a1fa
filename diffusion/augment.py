"""Changes to training images that keep them plausible: `augment(key, batch) -> batch`."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Key

Batch = dict[str, Any]
"""{"image": (B, H, W, C) float in [-1, 1], "label": (B,) int, ...}"""


@dataclass(frozen=True)
class Unchanged:
    """No augmentation."""

    def __call__(self, key: Key[Array, ""], batch: Batch) -> Batch:
        return batch


@dataclass(frozen=True)
class Flip:
    """Mirrors each image left to right with probability 1/2."""

    def __call__(self, key: Key[Array, ""], batch: Batch) -> Batch:
        image = batch["image"]
        mirrored = jax.random.bernoulli(key, shape=image.shape[:1])
        flipped = jnp.where(mirrored[:, None, None, None], image[:, :, ::-1, :], image)
        return {**batch, "image": flipped}


Augment = Unchanged | Flip
