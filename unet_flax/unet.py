"""The diffusion U-Net: an encoder that halves the image, a middle, and a decoder that doubles it.

Every feature map of the encoder is also an input of the block of the decoder that works at the same
size ("skip connection"), so that the decoder has fine detail and wide context at once.

Source: Ronneberger et al. 2015, arXiv:1505.04597; as noise predictor Ho et al. 2020,
arXiv:2006.11239.
"""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Bool, Float, Integer, Key

from unet_flax.attention_edit import AttentionEdit
from unet_flax.attention_edit import check as check_edit
from unet_flax.blocks import GroupNorm, conv
from unet_flax.config import UNetConfig
from unet_flax.encoder import Parts, UNetEncoder, runner
from unet_flax.inputs import check_call
from unet_flax.text_encoder import TextEncoder, pooled


class UNet(UNetEncoder):
    """Predicts the target of the preconditioning from a noisy image and its noise level.

    The output is zero at initialisation.

    Example:
      unet = UNet(UNetConfig(image_size=32), rngs=nnx.Rngs(0))
      y = unet(jnp.zeros((8, 32, 32, 3)), jnp.zeros(8))  # (8, 32, 32, 3)

    Source: Ho et al. 2020, arXiv:2006.11239, appendix B; the blocks name the papers of their
      variants.
    """

    def __init__(self, config: UNetConfig, *, rngs: nnx.Rngs):
        super().__init__(config, rngs=rngs)
        parts, width, skip_widths = Parts(config, rngs), config.widths[-1], [*self.skip_widths]
        self.text_encoder = (
            None if config.text is None else TextEncoder(config.text, rngs=rngs, **parts.types)
        )
        self.decoder = nnx.List([])
        self.upsamples = nnx.List([])
        levels = zip(config.widths, config.blocks, config.decoder_attends, strict=True)
        for level, (level_width, num_blocks, attends) in reversed(list(enumerate(levels))):
            if len(self.decoder) > 0:
                kind = config.upsampling[level]
                self.upsamples.append(kind.up(width, parts.res_block, **parts.convs))
            stages = nnx.List([])
            for index in range(num_blocks + 1):
                is_here = config.decoder_attention == "all" or index == num_blocks
                skip_width = skip_widths.pop()
                stages.append(parts.stage(width + skip_width, level_width, attends and is_here))
                width = level_width
            self.decoder.append(stages)

        self.norm_out = GroupNorm(width, config.num_groups, config.norm_eps, **parts.types)
        self.conv_out = conv(width, config.output_channels, starts_at_zero=True, **parts.convs)

    def __call__(
        self,
        x: Float[Array, "B *spatial C"],
        c_noise: Float[Array, "B"],
        *,
        label: Integer[Array, "B"] | None = None,
        augment_label: Float[Array, "B A"] | None = None,
        context: Float[Array, "B S D"] | None = None,
        context_mask: Bool[Array, "B S"] | None = None,
        text: Integer[Array, "B L"] | None = None,
        condition: Float[Array, "B *spatial K"] | None = None,
        x_0_hat: Float[Array, "B *spatial C"] | None = None,
        attention_edit: AttentionEdit | None = None,
        dropout_key: Key[Array, ""] | None = None,
    ) -> Float[Array, "B *spatial out"]:
        """Runs the network.

        Args:
          x: noisy images, scaled by the preconditioning to about unit variance.
          c_noise: noise level of each image, as the preconditioning states it.
          label: class of each image in [0, num_classes), or -1 for the null class. None is the
            null class for every image.
          augment_label: how each image was augmented; None is no augmentation.
          context: tokens to attend to, such as text.
          context_mask: True for the tokens that are attended to, at least one for each image; None
            is all of them.
          text: tokens for the network's own text encoder, 0 for padding; None is the null text for
            every image.
          condition: conditioning image of the same size, such as one of lower resolution or a mask.
          x_0_hat: the last estimate, for self-conditioning; None is zeros, before the first one.
          attention_edit: makes the second half of the batch attend as the first half does, see
            `AttentionEdit`; None leaves attention alone.
          dropout_key: randomness of dropout; None switches dropout off.
        Returns:
          float32, with config.output_channels channels.
        Raises:
          ValueError: the arguments do not fit the configuration.
        """
        config = self.config
        given = dict(
            label=label,
            augment_label=augment_label,
            context=context,
            context_mask=context_mask,
            text=text,
            condition=condition,
            x_0_hat=x_0_hat,
        )
        check_call(config, x, c_noise, given)
        if config.num_classes is not None and label is None:
            label = jnp.full(x.shape[:1], -1, jnp.int32)
        if config.center_input:
            x = 2 * x - 1
        added = None
        if self.text_encoder is not None and config.text is not None:
            if text is None:
                text = jnp.zeros((x.shape[0], config.text.num_tokens), jnp.int32)
            context, context_mask = self.text_encoder(text)
            added = pooled(context, context_mask)
        if attention_edit is not None:
            if context is None:
                raise ValueError("attention_edit needs a network that attends to a text.")
            check_edit(attention_edit, x.shape[0], context.shape[1])
        emb = self.embedding(c_noise, label, augment_label, added)
        images = [x]
        if config.self_conditioning:
            images.append(jnp.zeros_like(x) if x_0_hat is None else x_0_hat)
        if condition is not None:
            images.append(condition)
        run = runner(config, emb, dropout_key)
        attended = context, context_mask, attention_edit
        h, skips = self.encode(jnp.concatenate(images, axis=-1), run, *attended)
        for level, stages in enumerate(self.decoder):
            if level > 0:
                h = run(self.upsamples[level - 1], h)
            for stage in stages:
                h = jnp.concatenate([h, skips.pop()], axis=-1)
                h = run(stage, h, *attended)

        return self.conv_out(nnx.silu(self.norm_out(h))).astype(jnp.float32)
