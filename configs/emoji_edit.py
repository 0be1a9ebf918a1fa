"""An image editor that takes instructions, on 64x64 emoji: for a GPU.

    python train.py emoji_edit
    python sample.py runs/emoji_edit --init-image face.png --prompt "red hair"

Data and method are those of `emoji_edit_small`; the network has 24 M parameters. With
`--data.drawings noto` it learns Google's drawings, with a folder any other set.
"""

from configs import Muon, Recipe, Run, Sampling
from diffusion import EDM, Flip, HalfLife, Heun, Karras, LogNormal
from diffusion.data import EmojiEdits
from unet_flax import TextEncoderConfig, UNetConfig

recipe = Recipe(
    run=Run(
        num_steps=40_000,
        log_every_steps=100,
        save_every_steps=5_000,
        sample_every_steps=5_000,
        num_samples=48,
    ),
    data=EmojiEdits(batch_size=128, image_size=64),
    augment=Flip(),
    model=UNetConfig(
        image_size=None,
        in_channels=None,
        channels=64,
        channel_mult=(1, 2, 3, 4),
        num_res_blocks=2,
        attention_resolutions=(16, 8),
        num_heads=4,
        scale_shift=True,
        text=TextEncoderConfig(channels=128, num_layers=2, num_heads=4),
    ),
    preconditioning=EDM(sigma_data=0.6),
    noise=LogNormal(mean=-0.2, std=1.4),
    optimizer=Muon(learning_rate=2e-3, warmup_steps=500, decay_steps=40_000, clip_norm=1.0),
    ema=HalfLife(half_life_images=200_000, ramp=0.05),
    text_dropout=0.05,
    condition_dropout=0.05,
    sampling=Sampling(sampler=Heun(), grid=Karras(), num_steps=12),
)
