"""Draws 64x64 emoji of what a text says, in the latents of `emoji_autoencoder`: for a GPU.

    python train.py emoji_autoencoder
    python train.py emoji_latent
    python sample.py runs/emoji_latent --prompt "a blue heart" "flag: Italy" --guidance 3

The drawings are encoded once, as 16x16 latents of 4 channels, and the run keeps a copy of the
autoencoder. The network has 30 M parameters with a transformer of its own that reads the words.
This recipe is not from a paper: preconditioning and sampler are EDM's (arXiv:2206.00364), the
latents are as in arXiv:2112.10752.
"""

from configs import Adam, Recipe, Run, Sampling
from diffusion import EDM, HalfLife, Heun, Karras, LogNormal
from diffusion.data import EmojiCaptions, Latents
from unet_flax import TextEncoderConfig, UNetConfig

recipe = Recipe(
    run=Run(
        num_steps=60_000,
        log_every_steps=100,
        save_every_steps=5_000,
        sample_every_steps=5_000,
        num_samples=48,
    ),
    data=EmojiCaptions(batch_size=128, image_size=64),
    latents=Latents("runs/emoji_autoencoder", downsample_factor=4, channels=4),
    model=UNetConfig(
        image_size=None,
        in_channels=None,
        channels=128,
        channel_mult=(1, 2, 2),
        num_res_blocks=2,
        attention_resolutions=(16, 8),
        num_heads=4,
        text=TextEncoderConfig(channels=192, num_layers=3, num_heads=4),
    ),
    preconditioning=EDM(sigma_data=1.0),
    noise=LogNormal(mean=-0.4, std=1.4),
    optimizer=Adam(learning_rate=4e-4, warmup_steps=1_000, decay_steps=60_000, clip_norm=1.0),
    ema=HalfLife(half_life_images=200_000, ramp=0.05),
    text_dropout=0.1,
    sampling=Sampling(sampler=Heun(), grid=Karras(), num_steps=18),
)
