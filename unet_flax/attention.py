"""Self-attention over the positions of a feature map."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from unet_flax.blocks import GroupNorm


class SelfAttention(nnx.Module):
    """Every position looks at every other: x + proj(softmax(q k^T / sqrt(D)) v).

    Queries, keys and values are 1x1 convolutions of the normalised input, written as matrix
    products; the softmax is float32 whatever the compute type. The projection is zero at
    initialisation, so the block starts as the identity.

    Args:
      channels: C of the feature map; a multiple of num_heads.
      num_heads: heads of width D = channels / num_heads.
      num_groups: groups of the normalisation.
      norm_eps: added to the variance.
    Source: Ho et al. 2020, arXiv:2006.11239, appendix B; heads as in Nichol & Dhariwal 2021,
      arXiv:2102.09672.
    """

    def __init__(
        self,
        channels: int,
        num_heads: int = 1,
        *,
        num_groups: int = 32,
        norm_eps: float = 1e-6,
        dtype: DTypeLike = jnp.float32,
        rngs: nnx.Rngs,
    ):
        if channels % num_heads:
            raise ValueError(
                f"num_heads={num_heads} does not divide {channels} channels; "
                "use a divisor, or head_dim."
            )
        init = nnx.initializers.xavier_uniform()
        self.num_heads = num_heads
        self.norm = GroupNorm(channels, num_groups, norm_eps, dtype=dtype)
        self.query = nnx.Linear(channels, channels, kernel_init=init, dtype=dtype, rngs=rngs)
        self.key = nnx.Linear(channels, channels, kernel_init=init, dtype=dtype, rngs=rngs)
        self.value = nnx.Linear(channels, channels, kernel_init=init, dtype=dtype, rngs=rngs)
        self.proj = nnx.Linear(
            channels, channels, kernel_init=nnx.initializers.zeros, dtype=dtype, rngs=rngs
        )

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        B, H, W, C = x.shape
        tokens = self.norm(x).reshape(B, H * W, C)  # (B, L, C)
        heads = (B, H * W, self.num_heads, C // self.num_heads)
        attended = jax.nn.dot_product_attention(
            self.query(tokens).reshape(heads),
            self.key(tokens).reshape(heads),
            self.value(tokens).reshape(heads),
        )
        return x + self.proj(attended.reshape(B, H * W, C)).reshape(x.shape)
