"""The diffusion method: noise, denoiser, loss, samplers, training. Knows no network.

What touches files (`checkpoint`, `data`, `images`, `journal`) is imported by its own name, so that
this package needs no more than jax, numpy and optax.
"""

from diffusion.augment import Flip, Unchanged
from diffusion.denoiser import EDM, Denoise, Denoiser, Eps, denoiser
from diffusion.ema import EMA
from diffusion.guidance import classifier_free, clip
from diffusion.loss import Simple, loss
from diffusion.noise import Karras, LogNormal, VPLinear, VPTimesteps
from diffusion.samplers import Ancestral, Euler, Heun
from diffusion.sharding import Mesh
from diffusion.training import TrainState, make_train_step

__all__ = [
    "EDM",
    "EMA",
    "Ancestral",
    "Denoise",
    "Denoiser",
    "Eps",
    "Euler",
    "Flip",
    "Heun",
    "Karras",
    "LogNormal",
    "Mesh",
    "Simple",
    "TrainState",
    "Unchanged",
    "VPLinear",
    "VPTimesteps",
    "classifier_free",
    "clip",
    "denoiser",
    "loss",
    "make_train_step",
]
