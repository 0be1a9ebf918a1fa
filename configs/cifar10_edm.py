"""EDM on CIFAR-10, unconditional: DDPM++ of 55.7 M parameters, 200 M images.

    python train.py cifar10_edm
    python sample.py runs/cifar10_edm --num-images 64

Cost: 390,625 steps of 512 images; the paper reports two days on eight V100 GPUs. Result in the
paper: FID 1.97 with 35 network calls (50,000 samples against the training set, best of three seeds,
last weights); not reproduced here yet.

Source: Karras et al. 2022, arXiv:2206.00364, table 7 and appendix F.
"""

from configs import Adam, Recipe, Run, Sampling
from diffusion import EDM, HalfLife, Heun, Karras, LogNormal, NonLeaky
from diffusion.data import Cifar10
from unet_flax import presets

recipe = Recipe(
    run=Run(
        num_steps=390_625,
        log_every_steps=100,
        save_every_steps=2_500,
        sample_every_steps=10_000,
    ),
    data=Cifar10(batch_size=512),
    augment=NonLeaky(rate=0.12),
    model=presets.edm_ddpmpp_cifar10(),
    preconditioning=EDM(sigma_data=0.5),
    noise=LogNormal(mean=-1.2, std=1.2),
    optimizer=Adam(learning_rate=1e-3, warmup_steps=19_531),  # over 10 M images
    ema=HalfLife(half_life_images=500_000, ramp=0.05),
    sampling=Sampling(sampler=Heun(), grid=Karras(0.002, 80.0, 7.0), num_steps=18),
)
