"""The U-Net's encoder as a classifier of noisy images, with which samples are guided to a class.

One answer for the whole image needs no decoder: the features after the middle are pooled by
attention.
"""

import math
from dataclasses import dataclass

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Key

from unet_flax.attention import AttentionPool
from unet_flax.blocks import GroupNorm
from unet_flax.config import UNetConfig
from unet_flax.encoder import UNetEncoder, runner
from unet_flax.inputs import check_call
from unet_flax.rules import instance_of, settle, whole


@dataclass(frozen=True)
class UNetClassifierConfig:
    """Everything that decides the classifier's shape.

    Attributes:
      unet: the U-Net whose encoder and middle it is; fields of the decoder alone have no meaning.
        Its image size must be known.
      num_classes: number of logits.
      pool_head_dim: width of a head of the attention that pools; divides the last level's width.
    Raises:
      ValueError: a value of another type or outside its range; a U-Net with inputs beside the noisy
        image and its noise level.
    """

    unet: UNetConfig
    num_classes: int
    pool_head_dim: int = 64

    def __post_init__(self):
        settle(self, unet=instance_of(UNetConfig), num_classes=whole(), pool_head_dim=whole())
        if self.unet.inputs:
            raise ValueError(
                f"unet takes {', '.join(self.unet.inputs)}, but a classifier takes the noisy image "
                "and its noise level alone; leave these inputs out."
            )
        width = self.unet.widths[-1]
        if width % self.pool_head_dim:
            raise ValueError(
                f"pool_head_dim={self.pool_head_dim} does not divide the width {width} of the last "
                "level; use a divisor."
            )

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one image; raises a ValueError where it is not known yet."""
        return self.unet.image_shape


class UNetClassifier(UNetEncoder):
    """The logits of each class, of a noisy image and its noise level.

    The logits are zero at initialisation: every class has the same probability.

    Example:
      unet = UNetConfig(image_size=32)
      classifier = UNetClassifier(UNetClassifierConfig(unet, num_classes=10), rngs=nnx.Rngs(0))
      logits = classifier(jnp.zeros((8, 32, 32, 3)), jnp.zeros(8))  # (8, 10)

    Source: Dhariwal & Nichol 2021, arXiv:2105.05233, section 4 and appendix I.
    """

    def __init__(self, config: UNetClassifierConfig, *, rngs: nnx.Rngs):
        unet = config.unet
        super().__init__(unet, rngs=rngs)
        types = dict(dtype=jnp.dtype(unet.dtype), param_dtype=jnp.dtype(unet.param_dtype))
        width = unet.widths[-1]
        positions = math.prod(size >> (unet.num_levels - 1) for size in unet.spatial)
        self.norm_out = GroupNorm(width, unet.num_groups, unet.norm_eps, **types)
        self.pool = AttentionPool(
            positions, width, config.num_classes, config.pool_head_dim, rngs=rngs, **types
        )

    def __call__(
        self,
        x: Float[Array, "B *spatial C"],
        c_noise: Float[Array, "B"],
        *,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B K"]:
        """Runs the classifier.

        Args:
          x: noisy images, scaled by the preconditioning to about unit variance.
          c_noise: noise level of each image, as the preconditioning states it.
          dropout_key: randomness of dropout; None switches dropout off.
        Returns:
          float32 logits.
        Raises:
          ValueError: the arguments do not fit the configuration.
        """
        config = self.config
        check_call(config, x, c_noise, {})
        if config.center_input:
            x = 2 * x - 1
        run = runner(config, self.embedding(c_noise), dropout_key)
        h, _ = self.encode(x, run)
        return self.pool(nnx.silu(self.norm_out(h))).astype(jnp.float32)
