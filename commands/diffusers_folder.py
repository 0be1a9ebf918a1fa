"""Reads a diffusers folder for sampling: its U-Net, and the method of its scheduler."""

from pathlib import Path
from typing import Any, NamedTuple, cast

import unet_flax
from commands import diffusers_schedulers
from commands.conventions import Conventions
from configs.recipe import Sampling
from diffusion.denoiser import Network, Preconditioning
from diffusion.run import checkpoint
from diffusion.sampling.samplers import Sampler
from unet_flax.diffusers.folder import read_json
from unet_flax.diffusers.kinds import network_folder

PIPELINES = {
    "DDPMPipeline": (None, 1000),
    "DDIMPipeline": ("DDIMScheduler", 50),
    "PNDMPipeline": ("PNDMScheduler", 50),
    "ConsistencyModelPipeline": (None, 1),
}
"""By class: the scheduler that the pipeline makes of its own, and its number of steps."""


class DiffusersPipeline(NamedTuple):
    """The contents of a diffusers folder; `name` says which of its weights."""

    model: unet_flax.Model
    preconditioning: Preconditioning
    sampling: Sampling
    conventions: Conventions
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
    name, num_steps = _pipeline(folder)
    path = folder / "scheduler" / "scheduler_config.json"
    values = read_json(path) if path.is_file() else {"_class_name": "DDPMScheduler"}
    method = diffusers_schedulers.method_of(values, name, str(path))
    unet = unet_flax.load_diffusers(folder)
    if not isinstance(unet, unet_flax.UNet):
        raise ValueError(
            f"{folder}: {type(unet).__name__} draws no images by itself; a U-Net does. "
            "unet_flax.load_diffusers reads it."
        )
    if isinstance(unet.config.noise_features, unet_flax.Fourier):
        raise ValueError(
            f"{folder}: time_embedding_type='fourier' (a VE network) cannot be sampled from here; "
            "'positional' can. unet_flax.load_diffusers reads it."
        )
    most = method.num_train_timesteps - getattr(method.grid, "drops_last", False)
    sampling = Sampling(
        sampler=cast(Sampler, method.sampler),
        grid=method.grid,
        num_steps=min(num_steps, most),
        clip_x_0=method.clips,
    )
    network, params = unet_flax.functional(unet)
    is_average = network_folder(folder).name == "unet_ema"
    name = "diffusers' averaged weights (unet_ema)" if is_average else "diffusers' weights"
    return DiffusersPipeline(
        unet.config, method.preconditioning, sampling, method.conventions, network, params, name
    )


def _pipeline(folder: Path) -> tuple[str | None, int]:
    """The scheduler's class that the pipeline makes of its own, and its number of steps."""
    path = folder / "model_index.json"
    kind = read_json(path).get("_class_name") if path.is_file() else "DDPMPipeline"
    if not isinstance(kind, str) or kind not in PIPELINES:
        raise ValueError(
            f"{path}: _class_name={kind!r} cannot be sampled from here; {', '.join(PIPELINES)} can."
        )
    return PIPELINES[kind]
