"""Flow matching on CIFAR-10 with minibatch optimal transport (OT-CFM): 51 M images.

    python train.py cifar10_flow
    python sample.py runs/cifar10_flow --num-images 64

Cost: 400,000 steps of 128 images; the paper reports 60 h on one V100. Result in the paper: FID 3.58
with an adaptive solver of about 134 network calls, 4.44 with 100 Euler steps (50,000 samples); not
reproduced here yet. Deviations: c_noise is 1000 t instead of t; sinusoidal features as in ADM.

Source: Tong et al. 2023, arXiv:2302.00482, appendix E.
"""

from configs import Adam, Recipe, Run, Sampling
from diffusion import EMA, Euler, Even, Flip, Flow, MinibatchOT, UniformTime, Velocity
from diffusion.data import Cifar10
from unet_flax import Sinusoidal, UNetConfig

recipe = Recipe(
    run=Run(
        num_steps=400_000,
        log_every_steps=100,
        save_every_steps=5_000,
        sample_every_steps=20_000,
    ),
    data=Cifar10(batch_size=128),
    augment=Flip(),
    model=UNetConfig(
        image_size=None,
        channels=128,
        channel_mult=(1, 2, 2, 2),
        num_res_blocks=2,
        attention_resolutions=(16,),
        head_dim=64,
        norm_eps=1e-5,
        noise_features=Sinusoidal(cos_first=True, shift=0.0),
        dropout=0.1,
    ),
    schedule=Flow(sigma_min=1e-3, sigma_max=1e3),
    preconditioning=Velocity(),
    noise=UniformTime(),
    coupling=MinibatchOT(),
    optimizer=Adam(learning_rate=2e-4, warmup_steps=5_000, clip_norm=1.0),
    ema=EMA(decay=0.9999),
    sampling=Sampling(sampler=Euler(), grid=Even(), num_steps=100),
)
