"""Improved DDPM on CIFAR-10: learned variance by L_hybrid, cosine schedule of 4,000 steps.

    python train.py cifar10_iddpm
    python sample.py runs/cifar10_iddpm --num-images 64 --num-steps 100

Cost: 500,000 steps of 128 images, 64 M images. Result in the paper: FID 3.19 (50,000 samples of
4,000 steps against the training set) and 3.17 bits per dimension, table 2; not reproduced here yet.
With the bound alone (`--variance.bound-alone true`, and in this file noise=ImportanceSampled()) it
has 11.47 and 2.94.

Source: Nichol & Dhariwal 2021, arXiv:2102.09672, section 3 and appendix A.
"""

from configs import Adam, Recipe, Run, Sampling
from diffusion import EMA, Ancestral, Eps, LearnedVariance, UniformTime, VPChain, VPTimesteps
from diffusion.data import Cifar10
from unet_flax import presets

recipe = Recipe(
    run=Run(
        num_steps=500_000,
        log_every_steps=100,
        save_every_steps=5_000,
        sample_every_steps=50_000,
    ),
    data=Cifar10(batch_size=128),
    model=presets.iddpm_cifar10(),
    schedule=VPChain(4000, "squaredcos_cap_v2", timestep_scale=0.25),
    preconditioning=Eps(),
    noise=UniformTime(),
    variance=LearnedVariance(weight=0.001),
    optimizer=Adam(learning_rate=1e-4),
    ema=EMA(decay=0.9999),
    sampling=Sampling(sampler=Ancestral(None), grid=VPTimesteps(), num_steps=4000, clip_x_0=True),
)
