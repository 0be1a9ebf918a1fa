"""The diffusion method: noise, denoiser, loss, samplers, training. Knows no network.

What touches files (`checkpoint`, `data`, `images`, `journal`) is imported by its own name, so that
this package needs no more than jax, numpy and optax.
"""

from diffusion.augment import Flip, Unchanged
from diffusion.denoiser import EDM, X0, Denoise, Denoiser, Eps, Score, V, Velocity, denoiser
from diffusion.ema import EMA
from diffusion.grids import Even, Exponential, Karras, VPTimesteps
from diffusion.guidance import (
    autoguidance,
    classifier_free,
    classifier_guided,
    clip,
    clip_dynamically,
    in_interval,
)
from diffusion.loss import P2, EDMWeighting, MinSNR, Sigmoid, Simple, loss
from diffusion.multistep import AdamsBashforth, DPMSolver, DPMSolverSDE, UniPC
from diffusion.noise import LogitNormal, LogNormal, Stratified
from diffusion.samplers import RK45, Ancestral, DPMSolver2S, Euler, Heun
from diffusion.schedules import VE, Flow, SubVP, VPContinuous, VPCosine, VPLinear, VPSigmoid
from diffusion.sharding import Mesh
from diffusion.solve import trajectory
from diffusion.training import TrainState, make_train_step

__all__ = [
    "EDM",
    "EMA",
    "P2",
    "RK45",
    "VE",
    "X0",
    "AdamsBashforth",
    "Ancestral",
    "DPMSolver",
    "DPMSolver2S",
    "DPMSolverSDE",
    "Denoise",
    "Denoiser",
    "EDMWeighting",
    "Eps",
    "Euler",
    "Even",
    "Exponential",
    "Flip",
    "Flow",
    "Heun",
    "Karras",
    "LogNormal",
    "LogitNormal",
    "Mesh",
    "MinSNR",
    "Score",
    "Sigmoid",
    "Simple",
    "Stratified",
    "SubVP",
    "TrainState",
    "Unchanged",
    "UniPC",
    "V",
    "VPContinuous",
    "VPCosine",
    "VPLinear",
    "VPSigmoid",
    "VPTimesteps",
    "Velocity",
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
