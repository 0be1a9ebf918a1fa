"""Noise level, class, augmentation and text as one vector of width E, for every residual block.

features = noise_features(c_noise) + label_features(label) + augment_features(augment_label)
embedding = linear_out(silu(linear_in(features))) + label_embedding(label) + added_proj(added)

A label enters in one of the two places: `OneHot` in the first line, `Table` in the second.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.core import Tracer
from jaxtyping import Array, Float, Int, Integer

from unet_flax.mesh import sharding_of
from unet_flax.noise_features import NoiseFeatures, Sinusoidal
from unet_flax.rules import flag, settle

INIT = nnx.initializers.xavier_uniform()


def as_int32(label: Integer[Array, "B"]) -> Int[Array, "B"]:
    """Labels of any integer type as int32; values beyond int32 become its largest or smallest.

    In a narrow or unsigned type, comparisons and sums with -1 or num_classes wrap around.
    """
    own, int32 = np.iinfo(label.dtype), np.iinfo(np.int32)
    inside = label.clip(max(own.min, int32.min), min(own.max, int32.max))
    return jnp.asarray(inside, jnp.int32)


class LabelEmbedding(nnx.Module):
    """A learned vector per class and, where guidance needs it, one more for "no class".

    Label -1 is the null class, the table's last row. Any other label outside [0, num_classes)
    gives NaN, never another class.

    Source: Ho & Salimans 2022, arXiv:2207.12598, section 3.1 (the null token).
    """

    def __init__(
        self,
        num_classes: int,
        channels: int,
        *,
        has_null: bool = True,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.num_classes = num_classes
        self.dtype = dtype
        self.table = nnx.Param(
            nnx.initializers.normal(1.0)(
                rngs.params(), (num_classes + has_null, channels), param_dtype
            )
        )

    def __call__(self, label: Integer[Array, "B"]) -> Float[Array, "B E"]:
        label = as_int32(label)
        is_class = (label >= 0) & (label < self.num_classes)
        beyond = self.num_classes + 1  # `fill` makes NaN of it, and of -1 where there is no null
        row = jnp.where(is_class, label, jnp.where(label == -1, self.num_classes, beyond))
        table = self.table[...]
        found = table.at[row].get(mode="fill", out_sharding=sharding_of(row, table.ndim))
        return found.astype(self.dtype)


class OneHotLabel(nnx.Module):
    """The class as a one-hot vector of length sqrt(num_classes), through a linear layer.

    Label -1, the null class, is the zero vector. Any other label outside [0, num_classes) gives
    NaN, never another class.

    Source: Karras et al. 2022, arXiv:2206.00364, appendix F.2.
    """

    def __init__(self, num_classes: int, channels: int, *, rngs: nnx.Rngs, **types: Any):
        self.num_classes = num_classes
        self.linear = nnx.Linear(num_classes, channels, kernel_init=INIT, rngs=rngs, **types)

    def __call__(self, label: Integer[Array, "B"]) -> Float[Array, "B F"]:
        label = as_int32(label)
        one_hot = jax.nn.one_hot(label, self.num_classes) * np.sqrt(self.num_classes)
        is_known = (label >= -1) & (label < self.num_classes)
        return jnp.where(is_known[:, None], self.linear(one_hot), jnp.nan)


def check_label(label: Array | None, num_classes: int, *, has_null: bool) -> None:
    """Checks that every label is a class of the network.

    Under jit the values are not known; there the embedding of a label that is no class is NaN.

    Raises:
      ValueError: a label is missing, of another type, or no class.
    """
    if label is None:
        if not has_null:
            raise ValueError(
                "label is missing: this network has no null class; give a class for each image."
            )
        return
    if not jnp.issubdtype(label.dtype, jnp.integer):
        raise ValueError(f"label of type {label.dtype} is no class; use whole numbers.")
    if isinstance(label, Tracer):
        return
    lowest = -1 if has_null else 0
    values = np.asarray(label)
    wrong = values[(values < lowest) | (values >= num_classes)]
    if wrong.size:
        raise ValueError(
            f"label {wrong[0]} is outside {lowest} .. {num_classes - 1}, the classes of this "
            "network" + (" (-1 is the null class)." if has_null else ".")
        )


def nothing(label: Array | None) -> float:
    """Returns 0: the embedding of an input that the network does not take.

    A named function, since networks that hold lambdas do not compare equal.
    """
    return 0.0


@dataclass(frozen=True)
class Table:
    """The class is a learned vector, added to the noise embedding, as in ADM.

    Attributes:
      has_null: whether there is a row for the null class -1, which guidance needs.
    """

    has_null: bool = True

    def __post_init__(self):
        settle(self, has_null=flag)

    def make(
        self, num_classes: int, features: int, embedding: int, **rngs_and_types: Any
    ) -> tuple[Callable, Callable]:
        """Functions of the label: the summand of the noise features, and of the embedding."""
        table = LabelEmbedding(num_classes, embedding, has_null=self.has_null, **rngs_and_types)
        return nothing, table


@dataclass(frozen=True)
class OneHot:
    """The class is a one-hot vector, projected and added to the noise features, as in EDM.

    The null class -1 is the zero vector.
    """

    has_null = True

    def make(
        self, num_classes: int, features: int, embedding: int, **rngs_and_types: Any
    ) -> tuple[Callable, Callable]:
        """Functions of the label: the summand of the noise features, and of the embedding."""
        return OneHotLabel(num_classes, features, **rngs_and_types), nothing


LabelKind = Table | OneHot


class Embedding(nnx.Module):
    """Noise level, class, augmentation and text as one vector of width E.

    Args:
      channels: width of the noise features where noise_features.channels is None.
      emb_channels: E.
      noise_features: features of the noise level: Sinusoidal or Fourier.
      num_classes: number of classes, or None for none.
      label: embedding of the class: Table or OneHot.
      augment_channels: width of the augmentation label, or None for none; a label of zeros
        ("not augmented") adds nothing.
      added_channels: width of a further vector, such as a text's, or None for none.
    Source: Ho et al. 2020, arXiv:2006.11239, appendix B; the augmentation label Karras et al. 2022,
      arXiv:2206.00364, appendix F.2.
    """

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        *,
        noise_features: NoiseFeatures = Sinusoidal(),  # noqa: B008 (frozen)
        num_classes: int | None = None,
        label: LabelKind = Table(),  # noqa: B008 (frozen)
        augment_channels: int | None = None,
        added_channels: int | None = None,
        dtype: Any = jnp.float32,
        param_dtype: Any = jnp.float32,
        rngs: nnx.Rngs,
    ):
        common = dict(dtype=dtype, param_dtype=param_dtype, rngs=rngs)
        self.noise_features = noise_features.make(channels, **common)
        width = self.noise_features.channels
        assert width is not None
        self.label_features, self.label_embedding = (
            (nothing, nothing)
            if num_classes is None
            else label.make(num_classes, width, emb_channels, **common)
        )
        self.augment_features = (
            nothing
            if augment_channels is None
            else nnx.Linear(augment_channels, width, use_bias=False, kernel_init=INIT, **common)
        )
        self.linear_in = nnx.Linear(width, emb_channels, kernel_init=INIT, **common)
        self.linear_out = nnx.Linear(emb_channels, emb_channels, kernel_init=INIT, **common)
        self.added_proj = (
            nothing
            if added_channels is None
            else nnx.Linear(added_channels, emb_channels, kernel_init=INIT, **common)
        )

    def __call__(
        self,
        c_noise: Float[Array, "B"],
        label: Integer[Array, "B"] | None = None,
        augment_label: Float[Array, "B A"] | None = None,
        added: Float[Array, "B T"] | None = None,
    ) -> Float[Array, "B E"]:
        features = self.noise_features(c_noise) + self.label_features(label)
        if augment_label is not None:
            features = features + self.augment_features(augment_label)
        emb = self.linear_out(nnx.silu(self.linear_in(features)))
        return emb + self.label_embedding(label) + self.added_proj(added)  # pyright: ignore
