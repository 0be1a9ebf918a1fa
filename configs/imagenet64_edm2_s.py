"""EDM2-S on ImageNet at 64x64, class-conditional: 280 M parameters, 1,074 M images.

    python train.py imagenet64_edm2_s --data.path DIR
    python sample.py runs/imagenet64_edm2_s --ema 0.075 --num-images 64

DIR holds ImageNet's npz files at 64x64, see `ImageNet64`. Cost: 524,288 steps of 2,048 images; the
paper used 32 A100 GPUs. Result in the paper: FID 1.58 with 63 network calls (50,000 samples against
the training set, average of width 0.075); not reproduced here yet. Deviations: the images are those
of the npz files, not downsampled from ImageNet as in the paper; float32 unless --model.dtype
bfloat16 is given.

Source: Karras et al. 2023, arXiv:2312.02696, table 6.
"""

from configs import Adam, Recipe, Run, Sampling
from diffusion import EDM, Heun, Karras, LogNormal, PowerFunction, Uncertainty
from diffusion.data import ImageNet64
from unet_flax import presets

recipe = Recipe(
    run=Run(
        num_steps=524_288,
        log_every_steps=100,
        save_every_steps=4_096,
        sample_every_steps=16_384,
        keep_every_steps=4_096,  # all checkpoints, from which --ema makes averages of other widths
    ),
    data=ImageNet64(batch_size=2048),
    model=presets.edm2_s_imagenet64(num_classes=None),
    preconditioning=EDM(sigma_data=0.5),
    noise=LogNormal(mean=-0.8, std=1.6),
    uncertainty=Uncertainty(num_features=128),
    optimizer=Adam(learning_rate=1e-2, warmup_steps=4_883, sqrt_decay_steps=35_000, b2=0.99),
    ema=PowerFunction(sigma_rels=(0.05, 0.1)),
    sampling=Sampling(sampler=Heun(), grid=Karras(0.002, 80.0, 7.0), num_steps=32),
)
