"""Draws 64x64 emoji of what a text says: for a GPU.

    python train.py emoji
    python sample.py runs/emoji --prompt "a blue heart" "flag: Italy" --guidance 3

3,441 drawings of OpenMoji with their names in Unicode; a tenth of those that name a skin tone is
held out. The network has 26 M parameters with a transformer of its own that reads the words. This
recipe is not from a paper: preconditioning and sampler are EDM's (arXiv:2206.00364).
"""

from configs import Adam, Recipe, Run, Sampling
from diffusion import EDM, HalfLife, Heun, Karras, LogNormal
from diffusion.data import EmojiCaptions
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
    model=UNetConfig(
        image_size=None,
        in_channels=None,
        channels=64,
        channel_mult=(1, 2, 3, 4),
        num_res_blocks=2,
        attention_resolutions=(16, 8),
        num_heads=4,
        text=TextEncoderConfig(channels=192, num_layers=3, num_heads=4),
    ),
    preconditioning=EDM(sigma_data=0.53),
    noise=LogNormal(mean=-0.4, std=1.4),
    optimizer=Adam(learning_rate=4e-4, warmup_steps=1_000, decay_steps=60_000, clip_norm=1.0),
    ema=HalfLife(half_life_images=200_000, ramp=0.05),
    text_dropout=0.1,
    sampling=Sampling(sampler=Heun(), grid=Karras(), num_steps=18),
)
