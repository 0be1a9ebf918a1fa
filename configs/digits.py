"""Class-conditional 8x8 digits: real images, no download, minutes on a CPU.

    python train.py digits
    python sample.py runs/digits --label all --num-images 100

The images are scikit-learn's; the network has 0.7 M parameters.
"""

from configs import Adam, Recipe, Run, Sampling
from diffusion import EDM, EMA, Heun, Karras, LogNormal
from diffusion.data import Digits
from unet_flax import UNetConfig

recipe = Recipe(
    run=Run(
        num_steps=2400,
        log_every_steps=100,
        save_every_steps=800,
        sample_every_steps=800,
        num_samples=100,
    ),
    data=Digits(batch_size=32),
    model=UNetConfig(
        image_size=None,
        in_channels=None,
        channels=32,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(4,),
        num_groups=8,
    ),
    preconditioning=EDM(sigma_data=0.75),
    noise=LogNormal(mean=-0.4, std=1.2),
    optimizer=Adam(learning_rate=6e-3, warmup_steps=100, decay_steps=2400, clip_norm=1.0),
    ema=EMA(decay=0.995),
    label_dropout=0.05,
    sampling=Sampling(sampler=Heun(), grid=Karras(), num_steps=18),
)
