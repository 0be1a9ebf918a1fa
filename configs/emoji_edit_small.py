"""An image editor that takes instructions, on 16x16 emoji: ten minutes on two CPU cores.

python train.py emoji_edit_small
python sample.py runs/emoji_edit_small --init-image face.png --prompt "red hair"
"""

from configs import Muon, Recipe, Run, Sampling
from diffusion import EDM, EMA, Flip, Heun, Karras, LogNormal
from diffusion.data import EmojiEdits
from unet_flax import TextEncoderConfig, UNetConfig

recipe = Recipe(
    run=Run(
        num_steps=2_400,
        log_every_steps=100,
        save_every_steps=800,
        sample_every_steps=800,
        num_samples=64,
    ),
    data=EmojiEdits(batch_size=32, image_size=16),
    model=UNetConfig(
        image_size=None,
        in_channels=None,
        channels=32,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(8,),
        num_heads=2,
        num_groups=8,
        scale_shift=True,
        text=TextEncoderConfig(channels=64, num_layers=1, num_heads=4),
    ),
    preconditioning=EDM(sigma_data=0.6),
    noise=LogNormal(mean=-0.2, std=1.4),
    optimizer=Muon(learning_rate=1e-2, warmup_steps=100, decay_steps=2_400, clip_norm=1.0),
    ema=EMA(decay=0.998),
    augment=Flip(),
    text_dropout=0.05,
    condition_dropout=0.05,
    sampling=Sampling(sampler=Heun(), grid=Karras(), num_steps=10),
)
