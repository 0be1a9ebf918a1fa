"""The diffusion method: noise, denoiser, loss, samplers, training. Knows no network.

What touches files (`checkpoint`, `data`, `images`, `journal`) is imported by its own name, so that
this package needs no more than jax, numpy and optax.
"""

from diffusion.augment import Flip, Unchanged
from diffusion.denoiser import EDM, Denoise, Denoiser, Eps, denoiser
from diffusion.ema import EMA
from diffusion.guidance import (
    autoguidance,
    classifier_free,
    classifier_guided,
    clip,
    clip_dynamically,
    in_interval,
)
from diffusion.loss import Simple, loss
from diffusion.multistep import AdamsBashforth, DPMSolver, DPMSolverSDE, UniPC
from diffusion.noise import Karras, LogNormal, VPLinear, VPTimesteps
from diffusion.samplers import RK45, Ancestral, DPMSolver2S, Euler, Heun
from diffusion.sharding import Mesh
from diffusion.solve import trajectory
from diffusion.training import TrainState, make_train_step

__all__ = [
    "EDM",
    "EMA",
    "RK45",
    "AdamsBashforth",
    "Ancestral",
    "DPMSolver",
    "DPMSolver2S",
    "DPMSolverSDE",
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
    "UniPC",
    "Unchanged",
    "VPLinear",
    "VPTimesteps",
    "autoguidance",
    "classifier_free",
    "classifier_guided",
    "clip",
    "clip_dynamically",
    "denoiser",
    "in_interval",
    "loss",
    "make_train_step",
    "trajectory",
]
