"""What the network is told besides the image: the noise level and the class label, as vectors.

Both are summed into one embedding of width E, which every residual block adds to its features.
"""

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float, Int


def sinusoidal(
    c_noise: Float[Array, "B"], channels: int, max_period: float = 10_000.0
) -> Float[Array, "B channels"]:
    """Sines and cosines of the noise level, at frequencies falling geometrically from 1.

    embedding = sin(c_noise * f) || cos(c_noise * f),  f_i = max_period ** (-i / (half - 1))

    Args:
      c_noise: the noise level as the preconditioning states it, such as DDPM's timestep 0..999.
      channels: width of the embedding; an odd width ends in one zero.
      max_period: the lowest frequency is 1 / max_period.
    Source: Ho et al. 2020, arXiv:2006.11239, appendix B (Vaswani et al. 2017, section 3.5, with
      sines and cosines side by side and the last frequency at exactly 1 / max_period).
    """
    half = channels // 2
    frequencies = max_period ** (-np.arange(half, dtype=np.float64) / max(half - 1, 1))
    angles = c_noise.astype(jnp.float32)[:, None] * frequencies.astype(np.float32)[None, :]
    embedding = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1)
    return jnp.pad(embedding, ((0, 0), (0, channels % 2)))


class NoiseEmbedding(nnx.Module):
    """The noise level as a vector of width E: sinusoids through a two-layer perceptron.

    Source: Ho et al. 2020, arXiv:2006.11239, appendix B.
    """

    def __init__(
        self,
        channels: int,
        emb_channels: int,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        init = nnx.initializers.xavier_uniform()
        self.channels = channels
        self.linear_in = nnx.Linear(
            channels, emb_channels, kernel_init=init, dtype=dtype, rngs=rngs
        )
        self.linear_out = nnx.Linear(
            emb_channels, emb_channels, kernel_init=init, dtype=dtype, rngs=rngs
        )

    def __call__(self, c_noise: Float[Array, "B"]) -> Float[Array, "B E"]:
        return self.linear_out(nnx.silu(self.linear_in(sinusoidal(c_noise, self.channels))))


class LabelEmbedding(nnx.Module):
    """A learned vector per class, and one more for "no class", which guidance needs.

    Label -1 is the null class; it is the table's last row. Any other label outside
    [0, num_classes) gives NaN, never another class.

    Source: Ho & Salimans 2022, arXiv:2207.12598, section 3.1 (the null token).
    """

    def __init__(
        self,
        num_classes: int,
        emb_channels: int,
        *,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        self.num_classes = num_classes
        self.table = nnx.Param(
            nnx.initializers.normal(1.0)(rngs.params(), (num_classes + 1, emb_channels))
        )
        self.dtype = dtype

    def __call__(self, label: Int[Array, "B"]) -> Float[Array, "B E"]:
        is_class = (label >= 0) & (label < self.num_classes)
        beyond = self.num_classes + 1  # `fill` makes NaN of it
        row = jnp.where(is_class, label, jnp.where(label == -1, self.num_classes, beyond))
        return jnp.take(self.table[...], row, axis=0, mode="fill").astype(self.dtype)
