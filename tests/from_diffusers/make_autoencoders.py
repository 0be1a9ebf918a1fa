"""Writes autoencoder and autoencoder_plain beside it: small AutoencoderKLs, and what they compute.

    pip install torch==2.13.0 diffusers==0.42.1
    python tests/from_diffusers/make_autoencoders.py

Each folder holds config.json and the weights as diffusers saves them, and golden.npz: image
(B, H, W, C), mean and log_variance of its latent, a latent (B, h, w, D), and the image to which it
is decoded.
"""

from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL

FOLDER = Path(__file__).parent
SMALL = dict(norm_num_groups=4, sample_size=16)
AUTOENCODERS = {
    # as Stable Diffusion's is configured, but smaller; the latents have odd sizes
    "autoencoder": (
        (12, 20),
        dict(
            block_out_channels=(8, 12, 12),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
        ),
    ),
    # Stable Diffusion 3's fields, and no attention
    "autoencoder_plain": (
        (8, 12),
        dict(
            in_channels=1,
            out_channels=1,
            block_out_channels=(8, 12),
            down_block_types=("DownEncoderBlock2D",) * 2,
            up_block_types=("UpDecoderBlock2D",) * 2,
            layers_per_block=2,
            latent_channels=3,
            scaling_factor=1.5305,
            shift_factor=0.0609,
            use_quant_conv=False,
            use_post_quant_conv=False,
            mid_block_add_attention=False,
        ),
    ),
}


def last(array: torch.Tensor) -> np.ndarray:
    """Channels last."""
    return array.numpy().transpose(0, 2, 3, 1).copy()


def make(name: str, size: tuple[int, int], changes: dict) -> None:
    torch.manual_seed(0)
    model = AutoencoderKL(**SMALL | changes).eval()
    with torch.no_grad():
        for parameter in model.parameters():  # norms and biases too: none may hide
            parameter.add_(0.1 * torch.randn_like(parameter))
        if model.quant_conv is None:  # log variances beyond both of their bounds
            model.encoder.conv_out.bias[-2:] += torch.tensor([-40.0, 40.0])
        image = torch.rand(3, model.config.in_channels, *size) * 2 - 1
        posterior = model.encode(image).latent_dist
        latent = torch.randn_like(posterior.mean)
        decoded = model.decode(latent).sample
    arrays = dict(
        image=image, mean=posterior.mean, log_variance=posterior.logvar, latent=latent,
        decoded=decoded,
    )  # fmt: skip
    model.save_pretrained(FOLDER / name)
    np.savez(FOLDER / name / "golden.npz", **{key: last(value) for key, value in arrays.items()})


if __name__ == "__main__":
    for name, (size, changes) in AUTOENCODERS.items():
        make(name, size, changes)
