"""DDPM on CIFAR-10 as published: 35.7 M parameters, 800,000 steps of 128 images.

    python train.py cifar10_ddpm
    python sample.py runs/cifar10_ddpm --num-images 64

Cost: 102.4 M images; the paper reports 10.6 h on a TPU v3-8. Result in the paper: FID 3.17 (50,000
samples against the training set, best of the run); not reproduced here yet.

Source: Ho et al. 2020, arXiv:2006.11239, section 4 and appendix B.
"""

from configs import Adam, Recipe, Run, Sampling
from diffusion import EMA, Ancestral, Eps, Flip, UniformTime, VPLinear, VPTimesteps
from diffusion.data import Cifar10
from unet_flax import presets

recipe = Recipe(
    run=Run(
        num_steps=800_000,
        log_every_steps=100,
        save_every_steps=5_000,
        sample_every_steps=20_000,
    ),
    data=Cifar10(batch_size=128),
    augment=Flip(),
    model=presets.ddpm_cifar10(),
    schedule=VPLinear(num_timesteps=1000, beta_start=1e-4, beta_end=0.02),
    preconditioning=Eps(),
    noise=UniformTime(),
    optimizer=Adam(learning_rate=2e-4, warmup_steps=5_000, clip_norm=1.0),
    ema=EMA(decay=0.9999),
    sampling=Sampling(
        sampler=Ancestral(interpolation=1.0),
        grid=VPTimesteps(),
        num_steps=1000,
        clip_x_0=True,
    ),
)
