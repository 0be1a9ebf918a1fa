"""The magnitude-preserving U-Net of EDM2: no normalisation layers, every operation keeps unit size.

Weights are used normalised; sums and concatenations are weighted so that unit variance goes in and
comes out; the embedding only scales. After each optimiser step, bring the stored weights back to
unit size with `unit_kernels(params)`, as the paper's training does; otherwise they grow, and the
effective learning rate falls.

Source: Karras et al. 2023, arXiv:2312.02696, section 2 and appendix B (configuration G).
"""

import itertools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Integer, Key

from unet_flax.blocks import dropout
from unet_flax.edm2_config import EDM2Config as EDM2Config
from unet_flax.embeddings import as_int32
from unet_flax.inputs import check_call
from unet_flax.magnitude import MPConv, MPFourier, mp_concat, mp_silu, mp_sum, unit
from unet_flax.resample import Double, Halve


class Branch(nnx.Module):
    """The residual branch: two convolutions, between them the embedding as a scale."""

    def __init__(
        self, config: EDM2Config, in_channels: int, out_channels: int, emb: int, *, rngs: nnx.Rngs
    ):
        self.conv_in = MPConv(in_channels, out_channels, 3, rngs=rngs)
        self.emb_proj = MPConv(emb, out_channels, 1, rngs=rngs)
        self.emb_gain = nnx.Param(jnp.zeros((), jnp.float32))
        self.dropout_rate = config.dropout
        self.conv_out = MPConv(out_channels, out_channels, 3, rngs=rngs)

    def __call__(self, x: Array, emb: Array, dropout_key: Array | None) -> Array:
        scale = self.emb_proj(emb, self.emb_gain[...]) + 1
        h = mp_silu(self.conv_in(mp_silu(x)) * scale[:, None, None, :].astype(x.dtype))
        h = dropout(h, self.dropout_rate, dropout_key)
        return self.conv_out(h)


class MPAttention(nnx.Module):
    """Self-attention with queries, keys and values of unit size ("cosine attention")."""

    def __init__(self, config: EDM2Config, channels: int, *, rngs: nnx.Rngs):
        self.head_dim = config.head_dim
        self.balance = config.attention_balance
        self.query = MPConv(channels, channels, 1, rngs=rngs)
        self.key = MPConv(channels, channels, 1, rngs=rngs)
        self.value = MPConv(channels, channels, 1, rngs=rngs)
        self.proj = MPConv(channels, channels, 1, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W C"]:
        B, H, W, C = x.shape
        heads = (B, H * W, C // self.head_dim, self.head_dim)
        q, k, v = (unit(f(x).reshape(heads)) for f in (self.query, self.key, self.value))
        attended = jax.nn.dot_product_attention(q, k, v).reshape(x.shape)
        return mp_sum(x, self.proj(attended), self.balance)


class MPBlock(nnx.Module):
    """A block of the encoder or the decoder: resample, residual branch, attention, clip.

    An encoder's block brings its input to unit size first, after the 1x1 convolution that changes
    the width; a decoder's block leaves its input as it comes and projects beside the branch.
    """

    def __init__(
        self,
        config: EDM2Config,
        in_channels: int,
        out_channels: int,
        emb: int,
        *,
        is_encoder: bool,
        attends: bool = False,
        resample: Halve | Double | None = None,
        rngs: nnx.Rngs,
    ):
        self.is_encoder = is_encoder
        self.resample = resample
        self.balance = config.res_balance
        self.largest = config.largest
        changes = in_channels != out_channels
        self.skip = MPConv(in_channels, out_channels, 1, rngs=rngs) if changes else None
        into = out_channels if is_encoder else in_channels
        self.branch = Branch(config, into, out_channels, emb, rngs=rngs)
        self.attention = MPAttention(config, out_channels, rngs=rngs) if attends else None

    def __call__(self, x: Array, emb: Array, dropout_key: Array | None) -> Array:
        if self.resample is not None:
            x = self.resample(x)
        if self.is_encoder:
            x = unit(x if self.skip is None else self.skip(x))
            h = self.branch(x, emb, dropout_key)
        else:
            h = self.branch(x, emb, dropout_key)
            x = x if self.skip is None else self.skip(x)
        x = mp_sum(x, h, self.balance)
        if self.attention is not None:
            x = self.attention(x)
        return jnp.clip(x, -self.largest, self.largest)


class EDM2UNet(nnx.Module):
    """Predicts, from a noisy image and its noise level, what the preconditioning asks for.

    The output is zero at initialisation.

    Source: Karras et al. 2023, arXiv:2312.02696, figure 21 and table 6.
    """

    def __init__(self, config: EDM2Config, *, rngs: nnx.Rngs):
        image_channels = config.image_shape[-1]  # raises where size or channels are not known yet
        self.config = config
        emb = max(config.widths)
        self.noise_features = MPFourier(config.channels, rngs=rngs)
        self.noise_proj = MPConv(config.channels, emb, 1, rngs=rngs)
        if config.num_classes is not None:
            self.label_proj = MPConv(config.num_classes, emb, 1, rngs=rngs)
        self.conv_in = MPConv(image_channels + 1, config.channels, 3, rngs=rngs)

        def block(in_channels: int, out_channels: int, **settings: Any) -> MPBlock:
            return MPBlock(config, in_channels, out_channels, emb, rngs=rngs, **settings)

        levels = list(zip(config.widths, config.attends, strict=True))
        width = config.channels
        skip_widths = [width]
        self.encoder = nnx.List([])
        for level, (level_width, attends) in enumerate(levels):
            if level > 0:
                self.encoder.append(block(width, width, is_encoder=True, resample=Halve()))
                skip_widths.append(width)
            for _ in range(config.num_res_blocks):
                self.encoder.append(block(width, level_width, is_encoder=True, attends=attends))
                width = level_width
                skip_widths.append(width)

        self.middle = nnx.List(
            [block(width, width, is_encoder=False, attends=attends) for attends in (True, False)]
        )

        self.decoder = nnx.List([])
        self.upsamples = nnx.List([])
        for level_width, attends in reversed(levels):
            if len(self.decoder) > 0:
                self.upsamples.append(block(width, width, is_encoder=False, resample=Double()))
            stages = nnx.List([])
            for _ in range(config.num_res_blocks + 1):
                into = width + skip_widths.pop()
                stages.append(block(into, level_width, is_encoder=False, attends=attends))
                width = level_width
            self.decoder.append(stages)
        self.conv_out = MPConv(width, image_channels, 3, rngs=rngs)
        self.out_gain = nnx.Param(jnp.zeros((), jnp.float32))

    def __call__(
        self,
        x: Float[Array, "B H W C"],
        c_noise: Float[Array, "B"],
        *,
        label: Integer[Array, "B"] | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B H W C"]:
        """Runs the network.

        Args:
          x: noisy images, scaled by the preconditioning to unit variance.
          c_noise: noise level of each image, as the preconditioning states it.
          label: class of each image in [0, num_classes), or -1 (as None) for no class.
          dropout_key: randomness of dropout; None switches dropout off.
        Returns:
          float32.
        Raises:
          ValueError: the arguments do not fit the configuration.
        """
        config = self.config
        check_call(config, x, c_noise, {"label": label})
        emb = self.noise_proj(self.noise_features(c_noise))
        if config.num_classes is not None:
            label = jnp.full(x.shape[:1], -1, jnp.int32) if label is None else label
            emb = mp_sum(emb, self._label(label), config.label_balance)
        dtype = jnp.dtype(config.dtype)
        emb = mp_silu(emb).astype(dtype)
        counter = itertools.count()
        call = nnx.remat(_call) if config.remat else _call

        def run(block: MPBlock, h: Array) -> Array:
            index = next(counter)
            key = None if dropout_key is None else jax.random.fold_in(dropout_key, index)
            return call(block, h, emb, key)

        x = x.astype(dtype)
        h = self.conv_in(jnp.concatenate([x, jnp.ones_like(x[..., :1])], axis=-1))
        skips = [h]
        for block in self.encoder:
            h = run(block, h)
            skips.append(h)
        for block in self.middle:
            h = run(block, h)
        for level, stages in enumerate(self.decoder):
            if level > 0:
                h = run(self.upsamples[level - 1], h)
            for block in stages:
                h = run(block, mp_concat(h, skips.pop(), config.concat_balance))
        return self.conv_out(h, self.out_gain[...]).astype(jnp.float32)

    def _label(self, label: Integer[Array, "B"]) -> Float[Array, "B E"]:
        num_classes = self.config.num_classes
        assert num_classes is not None
        label = as_int32(label)
        one_hot = jax.nn.one_hot(label, num_classes) * math.sqrt(num_classes)
        is_known = (label >= -1) & (label < num_classes)
        return jnp.where(is_known[:, None], self.label_proj(one_hot), jnp.nan)


def _call(block: Callable[..., Array], *args: Array | None) -> Array:
    return block(*args)
