"""OpenMoji's drawings at 16x16, without classes: ten minutes on two CPU cores.

    python train.py openmoji
    python sample.py runs/openmoji --num-images 100
    python evaluate.py runs/openmoji --num-images 500 --features efficientnet

3,537 drawings of people, faces, animals, flags and things, which pip installs (the extra `emoji`);
591 others are held out. The network has 0.7 M parameters. Preconditioning and sampler are EDM's
(arXiv:2206.00364); sigma_data is the standard deviation of the drawings, and the noise is somewhat
stronger than EDM's, since flat colours of 16x16 hide little in weak noise.
"""

from configs import Adam, Recipe, Run, Sampling
from diffusion import EDM, EMA, Heun, Karras, LogNormal
from diffusion.data import OpenMoji
from unet_flax import UNetConfig

recipe = Recipe(
    run=Run(
        num_steps=4_000,
        log_every_steps=100,
        save_every_steps=1_000,
        sample_every_steps=1_000,
        num_samples=100,
    ),
    data=OpenMoji(batch_size=32, image_size=16),
    model=UNetConfig(
        image_size=None,
        in_channels=None,
        channels=32,
        channel_mult=(1, 2),
        num_res_blocks=1,
        attention_resolutions=(8,),
        num_groups=8,
    ),
    preconditioning=EDM(sigma_data=0.53),
    noise=LogNormal(mean=-0.6, std=1.3),
    optimizer=Adam(learning_rate=4e-3, warmup_steps=100, decay_steps=4_000, clip_norm=1.0),
    ema=EMA(decay=0.998),
    sampling=Sampling(sampler=Heun(), grid=Karras(), num_steps=18),
)
