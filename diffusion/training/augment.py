"""Augmentation of training images: `augment(key, batch) -> batch`.

`label_channels` is the width of the "augment_label" that the augmentation adds to the batch, or
None. `keeps_conditions_aligned` is True if conditions that are images change along with the image.
"""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from diffusion.keys import demand_key, mappable
from diffusion.ranges import demand

Batch = dict[str, Any]
"""{"image": (B, H, W, C) float in [-1, 1], "label": (B,) int, ...}"""

IMAGES = ("image", "condition", "x_0_hat")
"""Entries of a batch that are (B, H, W, channels) and aligned pixel by pixel."""


@dataclass(frozen=True)
class Unchanged:
    """No augmentation."""

    label_channels = None
    keeps_conditions_aligned = True

    def __call__(self, key: Key[Array, ""], batch: Batch) -> Batch:
        return batch


@dataclass(frozen=True)
class Flip:
    """Mirrors each image, with its conditions, left to right with probability 1/2."""

    label_channels = None
    keeps_conditions_aligned = True

    def __call__(self, key: Key[Array, ""], batch: Batch) -> Batch:
        demand_key(key)
        mirrored = jax.random.bernoulli(key, jnp.float32(0.5), batch["image"].shape[:1])
        flipped = {
            name: jnp.where(mirrored[:, None, None, None], values[:, :, ::-1, :], values)
            for name, values in batch.items()
            if name in IMAGES
        }
        return batch | flipped


@dataclass(frozen=True)
class NonLeaky:
    """Mirrors, scales, rotates, stretches and shifts images, in this order, with a label for each.

    The network is conditioned on the label, which describes the augmentation. In sampling the label
    is zero, which means an image without augmentation, so augmentations do not leak into samples.
    The batch gains "augment_label" (B, 9): mirrored left to right, mirrored top to bottom (0 or 1),
    log of the scale, cos - 1 and sin of the rotation, log of the stretch times cos and sin of its
    axis, shift along two axes.

    Attributes:
      rate: probability of each transformation, in [0, 1]; but mirroring left to right always has
        probability 1/2.
    Source: Karras et al. 2022, arXiv:2206.00364, appendix F.2 and table 6 (0.12 for CIFAR-10);
      Karras et al. 2020, arXiv:2006.06676, appendix B (the warp, between sym6 filters;
      the order). Deviation: the axis of a stretch is always drawn, and from a half circle. That
      gives the same distribution of images as a full circle, where one label would describe both a
      stretch and its inverse.
    """

    rate: float = 0.12
    label_channels = 9
    keeps_conditions_aligned = False

    def __post_init__(self):
        demand("[0, 1]", rate=self.rate)

    def __call__(self, key: Key[Array, ""], batch: Batch) -> Batch:
        image = batch["image"]
        demand_key(key)
        keys = jax.random.split(mappable(key), image.shape[0])
        augment = jax.vmap(lambda key, image: _augmented(key, image, self.rate))
        batch_axis = jax.typeof(image).sharding.spec[0]
        if batch_axis is not None:  # of a mesh with explicit axes
            sharding = jax.sharding.PartitionSpec(batch_axis)
            auto: Any = jax.sharding.auto_axes
            augment = auto(augment, out_sharding=(sharding, sharding))
        images, labels = augment(keys, image)
        return {**batch, "image": images, "augment_label": labels}


def _augmented(
    key: Key[Array, ""], image: Float[Array, "H W C"], rate: float
) -> tuple[Float[Array, "H W C"], Float[Array, "9"]]:
    happens_key, mirror_key, normal_key, angle_key = jax.random.split(key, 4)
    happens = jax.random.bernoulli(happens_key, jnp.float32(rate), (5,)).astype(image.dtype)
    coin = jax.random.bernoulli(mirror_key, jnp.float32(0.5), (2,)).astype(image.dtype)
    normal = jax.random.normal(normal_key, (4,), jnp.float32)
    reach = jnp.array([jnp.pi, jnp.pi / 2], jnp.float32)
    turn, axis = jax.random.uniform(angle_key, (2,), jnp.float32, minval=-reach, maxval=reach)
    left_right, top_bottom = coin[0], coin[1] * happens[0]
    log_scale = 0.2 * normal[0] * happens[1]  # in powers of two
    turn *= happens[2]
    log_stretch = 0.2 * normal[1] * happens[3]
    shift = 0.125 * normal[2:] * happens[4]  # (x, y), as a share of the image

    mirrored = jnp.where(left_right > 0, image[:, ::-1], image)
    mirrored = jnp.where(top_bottom > 0, mirrored[::-1], mirrored)
    matrix = _stretch(axis, log_stretch) @ _rotation(turn) * 2.0**log_scale
    size = jnp.array([image.shape[1], image.shape[0]], jnp.float32)
    warped = warp(mirrored, matrix, shift * size)
    image = jnp.where(happens[1:].any(), warped, mirrored)
    label = [
        *(left_right, top_bottom, log_scale / 0.2),
        *(jnp.cos(turn) - 1, jnp.sin(turn)),
        *(log_stretch / 0.2 * jnp.cos(axis), log_stretch / 0.2 * jnp.sin(axis)),
        *(shift / 0.125),
    ]
    return image, jnp.stack(label).astype(jnp.float32)


def _rotation(angle: Float[Array, ""]) -> Float[Array, "2 2"]:
    c, s = jnp.cos(angle), jnp.sin(angle)
    return jnp.stack([jnp.stack([c, -s]), jnp.stack([s, c])])


def _stretch(angle: Float[Array, ""], log_stretch: Float[Array, ""]) -> Float[Array, "2 2"]:
    """Stretches along the angle, and shrinks across it by the same factor."""
    factors = jnp.stack([2.0**log_stretch, 2.0**-log_stretch])
    return _rotation(angle) @ (factors[:, None] * _rotation(-angle))


# scaling filter of the symlet with six vanishing moments; orthonormal under shifts by two
SYM6 = np.array(
    [
        *(0.015404109327027373, 0.0034907120842174702, -0.11799011114819057),
        *(-0.048311742585633, 0.4910559419267466, 0.787641141030194),
        *(0.3379294217276218, -0.07263752278646252, -0.021060292512300564),
        *(0.04472490177066578, 0.0017677118642428036, -0.007800708325034148),
    ]
)
MARGIN = len(SYM6) // 2


def warp(
    image: Float[Array, "H W C"], matrix: Float[Array, "2 2"], shift: Float[Array, "2"]
) -> Float[Array, "H W C"]:
    """Moves the content at p, in (x, y) pixels from the centre, to matrix @ p + shift.

    The image is upsampled by 2 with the sym6 filter, warped by bilinear interpolation, and
    downsampled, which preserves fine detail. The identity warp returns the image up to rounding.
    The image is extended by reflection at its border.
    """
    height, width, _ = image.shape
    padded = jnp.pad(image, ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)), mode="reflect")
    fine = _finer(_finer(padded, 0), 1)
    # upsampling moves pixel i to index 2 i + tap, where tap is the centre of the filter
    tap = (SYM6 * np.arange(len(SYM6))).sum() / SYM6.sum()
    centre = np.array([n - 1 + 2 * MARGIN + tap for n in (height, width)])
    y, x = jnp.meshgrid(*(jnp.arange(n, dtype=image.dtype) for n in fine.shape[:2]), indexing="ij")
    target = jnp.stack([x - centre[1], y - centre[0]]).reshape(2, -1) - 2 * shift[:, None]
    source = jnp.linalg.inv(matrix) @ target
    coordinates = [source[1] + centre[0], source[0] + centre[1]]
    moved = jax.vmap(
        lambda channel: jax.scipy.ndimage.map_coordinates(
            channel, coordinates, order=1, mode="mirror"
        ),
        in_axes=2,
        out_axes=1,
    )(fine).reshape(fine.shape)
    coarse = _coarser(_coarser(moved, 0), 1)
    return coarse[MARGIN : MARGIN + height, MARGIN : MARGIN + width]


def _finer(image: Float[Array, "H W C"], axis: int) -> Float[Array, "_ _ C"]:
    """Upsamples by 2 along an axis: inserts zeros between the values, then filters."""
    moved = jnp.moveaxis(image, axis, -1)
    flat = moved.reshape(-1, 1, moved.shape[-1])
    taps = jnp.asarray(SYM6[::-1], image.dtype)[None, None]
    full = [(len(SYM6) - 1, len(SYM6) - 1)]
    fine = jax.lax.conv_general_dilated(flat, taps, (1,), full, lhs_dilation=(2,))
    return jnp.moveaxis(fine.reshape(*moved.shape[:-1], -1), -1, axis)


def _coarser(image: Float[Array, "H W C"], axis: int) -> Float[Array, "_ _ C"]:
    """The transpose of `_finer`, and its left inverse: the filter is orthonormal."""
    moved = jnp.moveaxis(image, axis, -1)
    flat = moved.reshape(-1, 1, moved.shape[-1])
    taps = jnp.asarray(SYM6, image.dtype)[None, None]
    coarse = jax.lax.conv_general_dilated(flat, taps, (2,), [(0, 0)])
    return jnp.moveaxis(coarse.reshape(*moved.shape[:-1], -1), -1, axis)


Augment = Unchanged | Flip | NonLeaky
