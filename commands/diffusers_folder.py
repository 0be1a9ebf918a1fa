"""Reads a diffusers folder for sampling: its U-Net, and the method of its scheduler."""

from pathlib import Path
from typing import Any, NamedTuple

import diffusion as dm
import unet_flax
from configs.recipe import Sampling
from diffusion.denoiser import Network, Preconditioning
from diffusion.run import checkpoint
from unet_flax.diffusers.folder import read_json
from unet_flax.diffusers.kinds import network_folder
from unet_flax.rules import flag, real, whole

DEFAULTS = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "variance_type": "fixed_small",
    "clip_sample": True,
    "trained_betas": None,
    "_class_name": "DDPMScheduler",
    "timestep_spacing": "linspace",
}
"""Defaults of diffusers' DDPMScheduler, for fields that scheduler_config.json lacks."""

PREDICTIONS = {"epsilon": dm.Eps, "v_prediction": dm.V, "sample": dm.X0}


class DiffusersPipeline(NamedTuple):
    """The contents of a diffusers folder; `name` says which of its weights."""

    model: unet_flax.Model
    preconditioning: Preconditioning
    sampling: Sampling
    network: Network
    params: Any
    name: str


def is_diffusers_folder(folder: Path) -> bool:
    """Whether the folder was written by diffusers, for a pipeline or a model."""
    has_parts = (folder / "model_index.json").is_file() or network_folder(folder) != folder
    return has_parts or "_class_name" in checkpoint.read_config(folder)


def read(folder: Path) -> DiffusersPipeline:
    """Reads network and scheduler.

    Raises:
      FileNotFoundError: a file is missing.
      ValueError: a file is damaged, or describes something that this library does not have.
    """
    path = folder / "scheduler" / "scheduler_config.json"
    values = DEFAULTS | (read_json(path) if path.is_file() else {})
    for name, rule in {
        "num_train_timesteps": whole(),
        "beta_start": real(),
        "beta_end": real(),
        "clip_sample": flag,
    }.items():
        rule(f"{path}: {name}", values[name])
    for name, allowed in {
        "beta_schedule": ("linear",),
        "prediction_type": tuple(PREDICTIONS),
        "variance_type": ("fixed_small", "fixed_large"),
        "trained_betas": (None,),
        "_class_name": ("DDPMScheduler", "DDIMScheduler"),
        "timestep_spacing": ("linspace", "leading", "trailing"),
    }.items():
        if values[name] not in allowed:
            raise ValueError(
                f"{path}: {name}={values[name]!r} cannot be sampled from here; "
                f"{' or '.join(map(repr, allowed))} can."
            )
    unet = unet_flax.load_diffusers(folder)
    if isinstance(unet.config.noise_features, unet_flax.Fourier):
        raise ValueError(
            f"{folder}: time_embedding_type='fourier' (a VE network) cannot be sampled from here; "
            "'positional' can. unet_flax.load_diffusers reads it."
        )
    schedule = dm.VPLinear(values["num_train_timesteps"], values["beta_start"], values["beta_end"])
    is_ddim = values["_class_name"] == "DDIMScheduler"
    ddpm = dm.Ancestral(interpolation=float(values["variance_type"] == "fixed_large"))
    sampling = Sampling(
        sampler=dm.Euler() if is_ddim else ddpm,
        grid=dm.VPTimesteps(schedule, values["timestep_spacing"]),
        num_steps=schedule.num_timesteps,
        clip_x_0=values["clip_sample"],
    )
    network, params = unet_flax.functional(unet)
    prediction = PREDICTIONS[values["prediction_type"]]
    is_average = network_folder(folder).name == "unet_ema"
    name = "diffusers' averaged weights (unet_ema)" if is_average else "diffusers' weights"
    return DiffusersPipeline(unet.config, prediction(schedule), sampling, network, params, name)
