"""Class-conditional Fashion-MNIST: real 28x28 images, minutes on a GPU.

    python train.py fashion_mnist
    python sample.py runs/fashion_mnist --label all --num-images 100

`apt install dataset-fashion-mnist` installs the images; otherwise download them and add
--data.path.

Cost: 5.1 M images, 6.8 M parameters, 3.5e16 FLOP. This recipe is not from a paper: its noise
distribution and sampler are EDM's, and its sigma_data is the standard deviation of the dataset.
Nothing is mirrored: of its sneakers and boots 99.7 and 100 % are more like the mean of their class
than like its mirror image.
"""

from configs import Adam, Recipe, Run, Sampling
from diffusion import EDM, HalfLife, Heun, Karras, LogNormal
from diffusion.data import FashionMnist
from unet_flax import UNetConfig

recipe = Recipe(
    run=Run(
        num_steps=40_000,
        log_every_steps=100,
        save_every_steps=2_000,
        sample_every_steps=2_000,
        num_samples=100,
    ),
    data=FashionMnist(batch_size=128),
    model=UNetConfig(
        image_size=None,
        in_channels=None,
        channels=64,
        channel_mult=(1, 2, 2),
        num_res_blocks=2,
        attention_resolutions=(14, 7),
        dropout=0.1,
    ),
    preconditioning=EDM(sigma_data=0.7),
    noise=LogNormal(mean=-1.2, std=1.2),
    optimizer=Adam(learning_rate=5e-4, warmup_steps=1_000, clip_norm=1.0),
    ema=HalfLife(half_life_images=100_000, ramp=0.05),
    label_dropout=0.1,
    sampling=Sampling(sampler=Heun(), grid=Karras(), num_steps=18),
)
