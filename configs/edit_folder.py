"""Your own edits, pairs of pictures with an instruction, at 64x64.

    python train.py edit_folder --data.path my_edits
    python sample.py runs/edit_folder --init-image a.png --prompt "make it night"

The folder (or ZIP) has metadata.jsonl with {"original_image": "a.png", "edit_prompt": "make it
night", "edited_image": "b.png"} in each line, as the data of InstructPix2Pix (arXiv:2211.09800), of
which guidance and the rates of dropout are too. Cost: 12.8 M pairs of a network of 24 M parameters,
for a GPU.
"""

from configs import Adam, Recipe, Run, Sampling
from diffusion import EDM, Flip, HalfLife, Heun, Karras, LogNormal
from diffusion.data import PicturePairs
from unet_flax import TextEncoderConfig, UNetConfig

recipe = Recipe(
    run=Run(
        num_steps=200_000,
        log_every_steps=100,
        save_every_steps=5_000,
        sample_every_steps=5_000,
        num_samples=48,
    ),
    data=PicturePairs(batch_size=64, image_size=64),
    augment=Flip(),
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
    preconditioning=EDM(sigma_data=0.5),
    noise=LogNormal(mean=-0.4, std=1.3),
    optimizer=Adam(learning_rate=2e-4, warmup_steps=1_000, clip_norm=1.0),
    ema=HalfLife(half_life_images=500_000, ramp=0.05),
    text_dropout=0.1,
    condition_dropout=0.1,
    sampling=Sampling(sampler=Heun(), grid=Karras(), num_steps=18),
)
