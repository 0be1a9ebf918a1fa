"""Encodes 64x64 emoji as latents of 16x16, on which `emoji_latent` is trained: for a GPU.

    python train.py emoji_autoencoder

3,481 drawings of OpenMoji; the pictures of a run's folder show held-out ones, each beside its
reconstruction, and metrics.jsonl their PSNR. The loss is Stable Diffusion's (arXiv:2112.10752) but
for its discriminator. LPIPS is added by `--perceptual-weight 1 --perceptual-files ...`.
"""

from configs import Adam, AutoencoderRecipe, Run
from diffusion import HalfLife
from diffusion.data import EmojiCaptions
from unet_flax import AutoencoderConfig

recipe = AutoencoderRecipe(
    run=Run(
        num_steps=20_000,
        log_every_steps=100,
        save_every_steps=2_000,
        sample_every_steps=2_000,
        num_samples=32,
    ),
    data=EmojiCaptions(batch_size=32, image_size=64),
    model=AutoencoderConfig(
        latent_channels=4, channels=64, channel_mult=(1, 2, 4), num_res_blocks=2
    ),
    optimizer=Adam(learning_rate=4e-4, warmup_steps=500, decay_steps=20_000, clip_norm=1.0),
    ema=HalfLife(half_life_images=20_000, ramp=0.05),
)
