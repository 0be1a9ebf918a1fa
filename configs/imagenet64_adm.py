"""ADM on ImageNet 64x64, class-conditional: learned variance by L_hybrid, cosine chain.

    python train.py imagenet64_adm --data.path DIR
    python sample.py runs/imagenet64_adm --label 207 --num-images 16 --num-steps 250

Cost: 540,000 steps of 2,048 images, 1,106 M images. Result in the paper: FID 2.07 with 250 steps,
table 5; not reproduced here yet.

Source: Dhariwal & Nichol 2021, arXiv:2105.05233, table 11.
"""

from configs import Adam, Recipe, Run, Sampling
from diffusion import EMA, Ancestral, Eps, LearnedVariance, UniformTime, VPChain, VPTimesteps
from diffusion.data import ImageNet64
from unet_flax import presets

recipe = Recipe(
    run=Run(
        num_steps=540_000,
        log_every_steps=100,
        save_every_steps=5_000,
        sample_every_steps=50_000,
    ),
    data=ImageNet64(batch_size=2048),
    model=presets.adm_imagenet64(),
    schedule=VPChain(1000, "squaredcos_cap_v2"),
    preconditioning=Eps(),
    noise=UniformTime(),
    variance=LearnedVariance(weight=0.001),
    optimizer=Adam(learning_rate=3e-4),
    ema=EMA(decay=0.9999),
    sampling=Sampling(
        sampler=Ancestral(None), grid=VPTimesteps(spacing="trailing"), num_steps=250, clip_x_0=True
    ),
)
