"""The diffusion method: noise, denoiser, loss, samplers, training. Knows no network.

What touches files is in `diffusion.data` and `diffusion.run`, which are imported by name, so that
this package needs no more than jax, numpy, scipy and optax.
"""

from diffusion.denoiser import (
    EDM,
    X0,
    Consistency,
    Denoise,
    Denoiser,
    Eps,
    Score,
    V,
    Velocity,
    denoiser,
)
from diffusion.editing.ddpm_inversion import Inversion, ddpm_invert
from diffusion.editing.inpaint import inpaint
from diffusion.editing.interpolation import slerp
from diffusion.editing.inversion import invert
from diffusion.editing.ledits import Concept, with_concepts
from diffusion.editing.null_text import NullText, null_text_invert
from diffusion.editing.prompt_to_prompt import align_tokens, prompt_to_prompt
from diffusion.editing.repaint import RePaint
from diffusion.editing.sdedit import begin_from
from diffusion.editing.super_resolution import super_resolve
from diffusion.noise.chain import VPChain, VPLinear
from diffusion.noise.distributions import LogitNormal, LogNormal, Stratified, UniformTime
from diffusion.noise.importance import ImportanceSampled
from diffusion.noise.schedules import Flow, VPCosine, VPSigmoid
from diffusion.noise.sdes import VE, SubVP, VPContinuous
from diffusion.sampling.classifier import classifier_guided, log_probability
from diffusion.sampling.consistency import ConsistencySampler, ConsistencyTimesteps
from diffusion.sampling.deis import DEIS
from diffusion.sampling.dpm import DPMSolver, DPMSolver2S
from diffusion.sampling.dpm_sde import DPMSolverSDE, DPMSolverSDE2S
from diffusion.sampling.euler import Euler
from diffusion.sampling.gradient import differentiable
from diffusion.sampling.grids import Even, Exponential, FlowTimes, Karras
from diffusion.sampling.guidance import (
    autoguidance,
    classifier_free,
    clip,
    clip_dynamically,
    image_and_text_guided,
    in_interval,
)
from diffusion.sampling.kdpm import KDPM2
from diffusion.sampling.likelihood import bits_per_dim, log_density, variational_bound
from diffusion.sampling.loop import BaseSampler, step, trajectory
from diffusion.sampling.multistep import AdamsBashforth, UniPC
from diffusion.sampling.pndm import PNDM
from diffusion.sampling.predictor_corrector import PredictorCorrector
from diffusion.sampling.rk45 import RK45
from diffusion.sampling.sa_solver import SASolver
from diffusion.sampling.samplers import Ancestral, Heun
from diffusion.sampling.singlestep import DPMSolverSinglestep
from diffusion.sampling.step_context import StepContext, interpolate
from diffusion.sampling.vp_timesteps import Respaced, VPTimesteps
from diffusion.sharding import Mesh
from diffusion.training.augment import Flip, NonLeaky, Unchanged
from diffusion.training.coupling import Independent, MinibatchOT
from diffusion.training.ema import EMA, HalfLife, PowerFunction, Several
from diffusion.training.loss import (
    P2,
    EDMWeighting,
    MinSNR,
    NoUncertainty,
    Sigmoid,
    Simple,
    Uncertainty,
    loss,
)
from diffusion.training.reconstruction import kl_divergence, make_reconstruction_step
from diffusion.training.step import make_train_step
from diffusion.training.update import TrainState
from diffusion.training.variance import FixedVariance, LearnedVariance

__all__ = [
    "DEIS",
    "EDM",
    "EMA",
    "KDPM2",
    "P2",
    "PNDM",
    "RK45",
    "V",
    "VE",
    "X0",
    "AdamsBashforth",
    "Ancestral",
    "BaseSampler",
    "Concept",
    "Consistency",
    "ConsistencySampler",
    "ConsistencyTimesteps",
    "DPMSolver",
    "DPMSolver2S",
    "DPMSolverSDE",
    "DPMSolverSDE2S",
    "DPMSolverSinglestep",
    "Denoise",
    "Denoiser",
    "EDMWeighting",
    "Eps",
    "Euler",
    "Even",
    "Exponential",
    "FixedVariance",
    "Flip",
    "Flow",
    "FlowTimes",
    "HalfLife",
    "Heun",
    "ImportanceSampled",
    "Independent",
    "Inversion",
    "Karras",
    "LearnedVariance",
    "LogNormal",
    "LogitNormal",
    "Mesh",
    "MinSNR",
    "MinibatchOT",
    "NoUncertainty",
    "NonLeaky",
    "NullText",
    "PowerFunction",
    "PredictorCorrector",
    "RePaint",
    "Respaced",
    "SASolver",
    "Score",
    "Several",
    "Sigmoid",
    "Simple",
    "StepContext",
    "Stratified",
    "SubVP",
    "TrainState",
    "Uncertainty",
    "UniformTime",
    "Unchanged",
    "UniPC",
    "VPChain",
    "VPContinuous",
    "VPCosine",
    "VPLinear",
    "VPSigmoid",
    "VPTimesteps",
    "Velocity",
    "align_tokens",
    "autoguidance",
    "begin_from",
    "bits_per_dim",
    "classifier_free",
    "classifier_guided",
    "clip",
    "clip_dynamically",
    "ddpm_invert",
    "denoiser",
    "differentiable",
    "image_and_text_guided",
    "in_interval",
    "inpaint",
    "interpolate",
    "invert",
    "kl_divergence",
    "log_density",
    "log_probability",
    "loss",
    "make_reconstruction_step",
    "make_train_step",
    "null_text_invert",
    "prompt_to_prompt",
    "slerp",
    "step",
    "super_resolve",
    "trajectory",
    "variational_bound",
    "with_concepts",
]
