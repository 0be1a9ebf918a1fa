"""The U-Net of 2015, as every introduction draws it; for segmentation and for reading.

    128x128x3 -> 64x64x64 -> 32x32x128 -> 16x16x256 -> 8x8x512 -> 8x8x1024      encoder, bottleneck
    128x128xK <- 128x128x64 <- 64x64x128 <- 32x32x256 <- 16x16x512 <-           decoder

Batch normalisation keeps running means of its inputs. In Flax: `unet.train()` before
training, where each call normalises by the batch and updates the running statistics (nnx.BatchStat
variables); `unet.eval()` before use, where it normalises by them and changes nothing. Under
nnx.jit the updates come back by themselves; under jax.jit split them off and return them:

    graph, params, batch_stats = nnx.split(unet, nnx.Param, nnx.BatchStat)

    def loss(params, batch_stats, image, mask):
        unet = nnx.merge(graph, params, batch_stats, copy=True)
        value = jnp.mean((unet(image) - mask) ** 2)
        return value, nnx.state(unet, nnx.BatchStat)

    value_and_grad = jax.jit(jax.value_and_grad(loss, has_aux=True))
    (value, batch_stats), grads = value_and_grad(params, batch_stats, image, mask)

Source: Ronneberger et al. 2015, arXiv:1505.04597. Deviations: convolutions keep the size instead of
losing their border, and batch normalisation (Ioffe & Szegedy 2015, arXiv:1502.03167) stands after
each.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from unet_flax.rules import array_like, flag, whole


def _widths(in_channels: int, out_channels: int) -> tuple[int, int]:
    return whole()("in_channels", in_channels), whole()("out_channels", out_channels)


class ConvBlock(nnx.Module):
    """(3x3 convolution, batch norm, ReLU), twice."""

    def __init__(self, in_channels: int, out_channels: int, *, rngs: nnx.Rngs):
        in_channels, out_channels = _widths(in_channels, out_channels)
        # no bias: the normalisation that follows would take it out again
        self.conv_1 = nnx.Conv(in_channels, out_channels, (3, 3), use_bias=False, rngs=rngs)
        self.norm_1 = nnx.BatchNorm(out_channels, momentum=0.9, rngs=rngs)
        self.conv_2 = nnx.Conv(out_channels, out_channels, (3, 3), use_bias=False, rngs=rngs)
        self.norm_2 = nnx.BatchNorm(out_channels, momentum=0.9, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W out"]:
        x = nnx.relu(self.norm_1(self.conv_1(x)))
        return nnx.relu(self.norm_2(self.conv_2(x)))


class DownBlock(nnx.Module):
    """A ConvBlock and max pooling; returns the features pooled, and as they are for the decoder."""

    def __init__(self, in_channels: int, out_channels: int, *, rngs: nnx.Rngs):
        self.block = ConvBlock(in_channels, out_channels, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B H W C"]
    ) -> tuple[Float[Array, "B H//2 W//2 out"], Float[Array, "B H W out"]]:
        """Returns (pooled, features)."""
        features = self.block(x)
        return nnx.max_pool(features, window_shape=(2, 2), strides=(2, 2)), features


class UpBlock(nnx.Module):
    """A transposed convolution doubles, the skip is laid beside it, a ConvBlock joins them.

    Args:
      has_skip: whether there is a skip; without one the detail that pooling lost stays lost.
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, has_skip: bool = True, rngs: nnx.Rngs
    ):
        in_channels, out_channels = _widths(in_channels, out_channels)
        self.has_skip = flag("has_skip", has_skip)
        self.up = nnx.ConvTranspose(in_channels, out_channels, (2, 2), strides=(2, 2), rngs=rngs)
        self.block = ConvBlock(out_channels * (1 + has_skip), out_channels, rngs=rngs)

    def __call__(
        self, x: Float[Array, "B h w C"], skip: Float[Array, "B H W out"] | None = None
    ) -> Float[Array, "B 2*h 2*w out"]:
        """Returns the features at double size.

        Raises:
          ValueError: skip is missing, unwanted, or not of the doubled features' shape.
        """
        x = self.up(x)
        wanted = x.shape if self.has_skip else None
        if (shape := None if skip is None else skip.shape) != wanted:
            raise ValueError(
                f"skip of shape {shape} does not fit this UpBlock of has_skip={self.has_skip}, "
                f"which takes one of shape {wanted}."
            )
        return self.block(x if skip is None else jnp.concatenate([x, skip], axis=-1))


class Encoder(nnx.Module):
    """DownBlocks of doubling width.

    Args:
      in_channels: of the image.
      channels: width of the first block.
      depth: number of blocks.
    """

    def __init__(self, in_channels: int = 3, channels: int = 64, depth: int = 4, *, rngs: nnx.Rngs):
        in_channels = whole()("in_channels", in_channels)
        channels, depth = whole()("channels", channels), whole()("depth", depth)
        self.in_channels = in_channels
        self.widths = tuple(channels * 2**level for level in range(depth))
        befores = (in_channels, *self.widths)
        self.blocks = nnx.List(
            [
                DownBlock(before, width, rngs=rngs)
                for before, width in zip(befores, self.widths, strict=False)
            ]
        )

    def __call__(
        self, x: Float[Array, "B H W C"]
    ) -> tuple[Float[Array, "B h w D"], list[Float[Array, "B _ _ _"]]]:
        """Returns (the last pooled features, each block's features for the decoder).

        Raises:
          ValueError: height or width cannot be halved that often, or the channels are others.
        """
        factor = 2 ** len(self.widths)
        if array_like("x", x).ndim != 4:
            raise ValueError(f"images of shape {x.shape} are not (B, height, width, channels).")
        _, height, width, channels = x.shape
        fits = height > 0 and width > 0 and not (height % factor or width % factor)
        if not fits or channels != self.in_channels:
            raise ValueError(
                f"images of {height}x{width}x{channels} do not fit this network; height and width "
                f"must be multiples of {factor} = 2**depth, with {self.in_channels} channels."
            )
        skips = []
        for block in self.blocks:
            x, features = block(x)
            skips.append(features)
        return x, skips


class ClassicUNet(nnx.Module):
    """From an image to a value, or several, for each of its pixels.

    Args:
      in_channels: of the image.
      out_channels: values for each pixel, such as one logit for each class.
      channels: width of the first level; each further level is twice as wide.
      depth: how often the image is halved.
      has_skips: whether the decoder takes the encoder's features; a network without them shows what
        they contribute.

    Example:
      unet = ClassicUNet(out_channels=2, rngs=nnx.Rngs(0))
      logits = unet(jnp.zeros((8, 128, 128, 3)))  # (8, 128, 128, 2)
    """

    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 1,
        channels: int = 64,
        depth: int = 4,
        *,
        has_skips: bool = True,
        rngs: nnx.Rngs,
    ):
        out_channels = whole()("out_channels", out_channels)
        self.has_skips = flag("has_skips", has_skips)
        self.encoder = Encoder(in_channels, channels, depth, rngs=rngs)
        widths = self.encoder.widths
        self.bottleneck = ConvBlock(widths[-1], 2 * widths[-1], rngs=rngs)
        self.decoder = nnx.List(
            [UpBlock(2 * width, width, has_skip=has_skips, rngs=rngs) for width in widths[::-1]]
        )
        self.head = nnx.Conv(widths[0], out_channels, (1, 1), rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H W out"]:
        """Raises a ValueError where the image does not fit, see `Encoder`."""
        x, skips = self.encoder(x)
        x = self.bottleneck(x)
        for block in self.decoder:
            skip = skips.pop()
            x = block(x, skip if self.has_skips else None)
        return self.head(x)


class Classifier(nnx.Module):
    """The encoder alone, with one value for each class instead of one for each pixel.

    For tasks with one answer for the whole image, which need no decoder.

    Args:
      num_classes: number of logits.
      in_channels, channels, depth: of the encoder.
    """

    def __init__(
        self,
        num_classes: int,
        in_channels: int = 3,
        channels: int = 64,
        depth: int = 4,
        *,
        rngs: nnx.Rngs,
    ):
        num_classes = whole()("num_classes", num_classes)
        self.encoder = Encoder(in_channels, channels, depth, rngs=rngs)
        self.head = nnx.Linear(self.encoder.widths[-1], num_classes, rngs=rngs)

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B K"]:
        features, _ = self.encoder(x)
        return self.head(features.mean((1, 2)))
