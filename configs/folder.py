"""Your own pictures at 64x64: a folder, a ZIP, tar shards, or a dataset by its name.

    python train.py folder --data.path my_pictures
    python train.py folder --data.path pets.zip --data.image-size 128 --data.labels folders
    python sample.py runs/folder

docs/data.md says what can be read, and how classes are found. The network is small enough for one
GPU of 8 GB, or, with --model.channels 32, for a CPU. Cost: 25.6 M images. This recipe is not from a
paper: noise, preconditioning and sampler are EDM's (arXiv:2206.00364).
"""

from configs import Adam, Recipe, Run, Sampling
from diffusion import EDM, Flip, HalfLife, Heun, Karras, LogNormal
from diffusion.data import Pictures
from unet_flax import UNetConfig

recipe = Recipe(
    run=Run(
        num_steps=400_000,
        log_every_steps=100,
        save_every_steps=5_000,
        sample_every_steps=5_000,
        num_samples=64,
    ),
    data=Pictures(batch_size=64, image_size=64),
    augment=Flip(),
    model=UNetConfig(
        image_size=None,
        in_channels=None,
        channels=64,
        channel_mult=(1, 2, 3, 4),
        num_res_blocks=2,
        attention_resolutions=(16, 8),
        dropout=0.1,
    ),
    preconditioning=EDM(sigma_data=0.5),
    noise=LogNormal(mean=-1.2, std=1.2),
    optimizer=Adam(learning_rate=2e-4, warmup_steps=1_000, clip_norm=1.0),
    ema=HalfLife(half_life_images=500_000, ramp=0.05),
    label_dropout=0.1,
    sampling=Sampling(sampler=Heun(), grid=Karras(), num_steps=18),
)
