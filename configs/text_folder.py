"""Your own pictures with captions, to draw what a text says, at 64x64.

    python train.py text_folder --data.path my_pictures
    python sample.py runs/text_folder --prompt "a red house" --guidance 3

The folder (or ZIP) has metadata.jsonl with {"file_name": "a/1.png", "text": "a red house"} in each
line, as Hugging Face's image folders do; another file or column by --data.captions FILE:COLUMN.
Cost: 25.6 M images of a network of 26 M parameters, for a GPU. This recipe is not from a paper:
preconditioning and sampler are EDM's (arXiv:2206.00364).
"""

from configs import Adam, Recipe, Run, Sampling
from diffusion import EDM, HalfLife, Heun, Karras, LogNormal
from diffusion.data import Pictures
from unet_flax import TextEncoderConfig, UNetConfig

recipe = Recipe(
    run=Run(
        num_steps=400_000,
        log_every_steps=100,
        save_every_steps=5_000,
        sample_every_steps=5_000,
        num_samples=48,
    ),
    data=Pictures(batch_size=64, image_size=64, captions="metadata.jsonl"),
    model=UNetConfig(
        image_size=None,
        in_channels=None,
        channels=64,
        channel_mult=(1, 2, 3, 4),
        num_res_blocks=2,
        attention_resolutions=(16, 8),
        num_heads=4,
        dropout=0.1,
        text=TextEncoderConfig(channels=192, num_layers=3, num_heads=4),
    ),
    preconditioning=EDM(sigma_data=0.5),
    noise=LogNormal(mean=-0.8, std=1.3),
    optimizer=Adam(learning_rate=2e-4, warmup_steps=1_000, clip_norm=1.0),
    ema=HalfLife(half_life_images=500_000, ramp=0.05),
    text_dropout=0.1,
    sampling=Sampling(sampler=Heun(), grid=Karras(), num_steps=18),
)
