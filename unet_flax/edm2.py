"""The magnitude-preserving U-Net of EDM2: no normalisation layers, every operation keeps unit size.

Weights are used normalised, sums and concatenations are weighed so that unit variance goes in and
comes out, and the embedding only scales. After each optimiser step bring the stored weights back to
unit size with `unit_kernels(params)`, as the paper's training does, so that the learning rate means
the same for ever.

Source: Karras et al. 2023, arXiv:2312.02696, section 2 and appendix B (configuration G).
"""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Key

from unet_flax import winograd
from unet_flax.blocks import dropout
from unet_flax.embeddings import check_label
from unet_flax.noise_features import Constant
from unet_flax.resample import Double, Halve
from unet_flax.rules import array_like, each, float_type, or_none, real, settle, whole


@dataclass(frozen=True)
class EDM2Config:
    """Everything that decides the network's shape.

    Attributes:
      image_size: height and width in pixels; divisible by 2 ** (levels - 1).
      in_channels: channels of the image, and of the output.
      channels: width of the first level.
      channel_mult: width of each level as a multiple of `channels`.
      num_res_blocks: blocks in each level of the encoder; the decoder has one more.
      attention_resolutions: sizes in pixels at which each block has attention.
      head_dim: width of an attention head.
      num_classes: number of class labels, or None.
      dropout: rate in [0, 1), in training only.
      label_balance, concat_balance, res_balance, attention_balance: share of the second of two
        parts in a sum or concatenation, in [0, 1].
      largest: features are clipped to [-largest, largest] after every block; finite.
      dtype: type in which the network computes, "float32" or "bfloat16".
    Raises:
      ValueError: a value of another type or outside its range, or values that contradict each
        other; one line that names the field, the value and what is allowed.
    """

    image_size: int
    in_channels: int = 3
    channels: int = 192
    channel_mult: tuple[int, ...] = (1, 2, 3, 4)
    num_res_blocks: int = 3
    attention_resolutions: tuple[int, ...] = (16, 8)
    head_dim: int = 64
    num_classes: int | None = None
    dropout: float = 0.0
    label_balance: float = 0.5
    concat_balance: float = 0.5
    res_balance: float = 0.3
    attention_balance: float = 0.3
    largest: float = 256.0
    dtype: str = "float32"

    def __post_init__(self):
        size, share = whole(), real(least=0, most=1)
        settle(self, image_size=size, in_channels=size, channels=size, channel_mult=each(size))
        settle(self, num_res_blocks=size, attention_resolutions=each(size, least=0), head_dim=size)
        settle(self, num_classes=or_none(size), dropout=real(least=0, below=1))
        settle(self, label_balance=share, concat_balance=share)
        settle(self, res_balance=share, attention_balance=share)
        settle(self, largest=real(above=0), dtype=float_type)
        factor = 2 ** (len(self.channel_mult) - 1)
        if self.image_size % factor:
            raise ValueError(
                f"image_size={self.image_size} is not divisible by {factor} = 2**(levels - 1)."
            )
        if unknown := set(self.attention_resolutions) - set(self.resolutions):
            raise ValueError(
                f"attention_resolutions={unknown} are sizes that no level has; the levels have "
                f"{self.resolutions}."
            )
        levels = zip(self.widths, self.resolutions, strict=True)
        attending = [width for width, size in levels if size in self.attention_resolutions]
        for width in (*attending, self.widths[-1]):  # the middle attends
            if width % self.head_dim:
                raise ValueError(f"head_dim={self.head_dim} does not divide the width {width}.")

    @property
    def resolutions(self) -> tuple[int, ...]:
        """Height and width of each level, largest first."""
        return tuple(self.image_size >> level for level in range(len(self.channel_mult)))

    @property
    def widths(self) -> tuple[int, ...]:
        """Channels of each level."""
        return tuple(self.channels * multiple for multiple in self.channel_mult)


def unit(x: Array, axis: int | tuple[int, ...] = -1, eps: float = 1e-4) -> Array:
    """Brings x to unit mean square over the axes, in float32; eps guards against zero vectors."""
    mean_square = jnp.square(x.astype(jnp.float32)).mean(axis, keepdims=True)
    return (x / (jnp.sqrt(mean_square) + eps)).astype(x.dtype)


def mp_silu(x: Array) -> Array:
    """SiLU, divided by its root mean square for unit normal input."""
    return nnx.silu(x) / 0.596


def mp_sum(a: Array, b: Array, balance: float) -> Array:
    """(1 - balance) a + balance b, at unit variance where both are independent and have it."""
    return ((1 - balance) * a + balance * b) / math.hypot(1 - balance, balance)


def mp_concat(a: Array, b: Array, balance: float) -> Array:
    """Lays channels side by side so that both contribute by their share, not by their number."""
    size_a, size_b = a.shape[-1], b.shape[-1]
    scale = math.sqrt(size_a + size_b) / math.hypot(1 - balance, balance)
    weight_a, weight_b = (1 - balance) / math.sqrt(size_a), balance / math.sqrt(size_b)
    return jnp.concatenate([scale * weight_a * a, scale * weight_b * b], axis=-1)


class MPConv(nnx.Module):
    """A convolution without bias whose output channels have weights of unit size.

    Args:
      kernel_size: 3, or 1 for a matrix product on the last axis.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, *, rngs: nnx.Rngs):
        shape = (kernel_size,) * (2 * (kernel_size > 1)) + (in_channels, out_channels)
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), shape))

    def __call__(self, x: Float[Array, "B ... C"], gain: Array | float = 1.0) -> Array:
        kernel = self.kernel[...]
        inputs = tuple(range(kernel.ndim - 1))
        fan_in = math.prod(kernel.shape[:-1])
        kernel = (unit(kernel, inputs) * (gain / math.sqrt(fan_in))).astype(x.dtype)
        if kernel.ndim == 2:
            return x @ kernel
        return winograd.convolve(x, kernel, (1, 1), "SAME", dimension_numbers=winograd.LAYOUT)


def unit_kernels(params: Any) -> Any:
    """Forced weight normalisation: every kernel brought back to unit size; the rest untouched.

    Args:
      params: of an EDM2UNet, as `functional` gives them.
    Raises:
      ValueError: there is no kernel in them.
    Source: arXiv:2312.02696, section 2.3.
    """

    def is_kernel(path: tuple) -> bool:
        return getattr(path[-1], "key", None) == "kernel"

    if not any(is_kernel(path) for path, _ in jax.tree.leaves_with_path(params)):
        raise ValueError("no kernel among these parameters; give what `functional` gives.")
    return jax.tree.map_with_path(
        lambda path, leaf: unit(leaf, tuple(range(leaf.ndim - 1))) if is_kernel(path) else leaf,
        params,
    )


class MPFourier(nnx.Module):
    """sqrt(2) cos(2 pi (w c_noise + phase)), of unit variance; w and phase drawn once."""

    def __init__(self, channels: int, *, rngs: nnx.Rngs):
        self.frequencies = Constant(jax.random.normal(rngs.params(), (channels,)))
        self.phases = Constant(jax.random.uniform(rngs.params(), (channels,)))

    def __call__(self, c_noise: Float[Array, "B"]) -> Float[Array, "B F"]:
        frequencies, phases = self.frequencies[...][None, :], self.phases[...][None, :]
        turns = c_noise.astype(jnp.float32)[:, None] * frequencies + phases
        return jax.lax.stop_gradient(jnp.cos(2 * jnp.pi * turns) * math.sqrt(2.0))


class Branch(nnx.Module):
    """The residual branch: two convolutions, between them the embedding as a scale."""

    def __init__(
        self, config: EDM2Config, in_channels: int, out_channels: int, emb: int, *, rngs: nnx.Rngs
    ):
        self.conv_in = MPConv(in_channels, out_channels, 3, rngs=rngs)
        self.emb_proj = MPConv(emb, out_channels, 1, rngs=rngs)
        self.emb_gain = nnx.Param(jnp.zeros(()))
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
        self.config = config
        emb = max(config.widths)
        self.noise_features = MPFourier(config.channels, rngs=rngs)
        self.noise_proj = MPConv(config.channels, emb, 1, rngs=rngs)
        if config.num_classes is not None:
            self.label_proj = MPConv(config.num_classes, emb, 1, rngs=rngs)
        self.conv_in = MPConv(config.in_channels + 1, config.channels, 3, rngs=rngs)

        def block(in_channels: int, out_channels: int, **settings: Any) -> MPBlock:
            return MPBlock(config, in_channels, out_channels, emb, rngs=rngs, **settings)

        levels = list(zip(config.widths, config.resolutions, strict=True))
        width = config.channels
        skip_widths = [width]
        self.encoder = nnx.List([])
        for level, (level_width, resolution) in enumerate(levels):
            if level > 0:
                self.encoder.append(block(width, width, is_encoder=True, resample=Halve()))
                skip_widths.append(width)
            for _ in range(config.num_res_blocks):
                attends = resolution in config.attention_resolutions
                self.encoder.append(block(width, level_width, is_encoder=True, attends=attends))
                width = level_width
                skip_widths.append(width)

        self.middle = nnx.List(
            [block(width, width, is_encoder=False, attends=attends) for attends in (True, False)]
        )

        self.decoder = nnx.List([])
        self.upsamples = nnx.List([])
        for level_width, resolution in reversed(levels):
            if len(self.decoder) > 0:
                self.upsamples.append(block(width, width, is_encoder=False, resample=Double()))
            stages = nnx.List([])
            for _ in range(config.num_res_blocks + 1):
                attends = resolution in config.attention_resolutions
                into = width + skip_widths.pop()
                stages.append(block(into, level_width, is_encoder=False, attends=attends))
                width = level_width
            self.decoder.append(stages)
        self.conv_out = MPConv(width, config.in_channels, 3, rngs=rngs)
        self.out_gain = nnx.Param(jnp.zeros(()))

    def __call__(
        self,
        x: Float[Array, "B H W C"],
        c_noise: Float[Array, "B"],
        *,
        label: Int[Array, "B"] | None = None,
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
          ValueError: where x or label do not fit the configuration.
        """
        config = self.config
        size = config.image_size
        x, c_noise = array_like("x", x), array_like("c_noise", c_noise)
        label = or_none(array_like)("label", label)
        if x.shape[1:] != (size, size, config.in_channels):
            raise ValueError(
                f"images of (height, width, channels) {x.shape[1:]} do not fit this network, "
                f"which takes {(size, size, config.in_channels)}."
            )
        if c_noise.shape != x.shape[:1]:
            raise ValueError(f"c_noise of shape {c_noise.shape} is not one level an image.")
        if label is not None and label.shape != x.shape[:1]:
            raise ValueError(f"label of shape {label.shape} is not one class an image.")
        emb = self.noise_proj(self.noise_features(c_noise))
        if config.num_classes is not None:
            check_label(label, config.num_classes, has_null=True)
            if label is None:
                label = jnp.full(x.shape[:1], -1, jnp.int32)
            emb = mp_sum(emb, self._label(label), config.label_balance)
        elif label is not None:
            raise ValueError(
                "label is given to a network that knows none; set num_classes in its EDM2Config."
            )
        dtype = jnp.dtype(config.dtype)
        emb = mp_silu(emb).astype(dtype)
        counter = itertools.count()

        def run(block: MPBlock, h: Array) -> Array:
            index = next(counter)
            key = None if dropout_key is None else jax.random.fold_in(dropout_key, index)
            return block(h, emb, key)

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

    def _label(self, label: Int[Array, "B"]) -> Float[Array, "B E"]:
        num_classes = self.config.num_classes
        assert num_classes is not None
        one_hot = jax.nn.one_hot(label, num_classes) * math.sqrt(num_classes)
        is_known = (label >= -1) & (label < num_classes)
        return jnp.where(is_known[:, None], self.label_proj(one_hot), jnp.nan)
