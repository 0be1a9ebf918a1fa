"""What sampling starts from: a network and its weights, read from a run's folder or diffusers'."""

import json
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

import diffusion as dm
import unet_flax
from commands import build
from configs import recipe as schema
from configs.recipe import Recipe, Sampling
from diffusion import sharding
from diffusion.denoiser import Denoise, Network, Preconditioning
from diffusion.run import checkpoint
from diffusion.training.ema import reconstruct


@dataclass(frozen=True)
class Trained:
    """What sampling must know: a network, its weights, and how they want to be used.

    Attributes:
      model: what the network takes.
      preconditioning: the one that it was trained with.
      sampling: how to draw from it where nothing else is said.
      network: `network(params, x, c_noise, **cond)`.
      params: its weights, usually averaged ones, on the mesh.
      mesh: the devices that share out the images.
      knows_null: whether it was trained on the null class, which guidance needs.
      name: what they are, for people.
    Raises:
      ValueError: guidance without a null class.
    """

    model: unet_flax.UNetConfig
    preconditioning: Preconditioning
    sampling: Sampling
    network: Network
    params: Any
    mesh: jax.sharding.Mesh
    knows_null: bool
    name: str

    def __post_init__(self):
        if self.sampling.guidance != 1 and not self.knows_null:
            raise ValueError(
                f"guidance={self.sampling.guidance} needs a network that was trained with classes "
                "and with label_dropout above 0; use 1."
            )

    @staticmethod
    def read(folder: Path, step: int | None = None, ema: str | None = None) -> "Trained":
        """Reads a run's averaged weights; or the network of a folder of diffusers.

        Args:
          step: of the checkpoint; None for the latest.
          ema: name of the average, or any sigma_rel where power-function averages are kept; None
            for the first.
        Raises:
          FileNotFoundError: it is neither, or has no such checkpoint.
          ValueError: what is there is damaged, or cannot be expressed here; no such average.
        """
        is_pipeline = (folder / "model_index.json").is_file()
        if is_pipeline or "_class_name" in checkpoint.read_config(folder):
            if step is not None:
                raise ValueError(f"--step {step}: {folder} is of diffusers and has no steps.")
            if ema is not None:
                raise ValueError(f"--ema {ema}: {folder} is of diffusers and has no averages.")
            return _of_diffusers(folder)
        mesh = dm.Mesh().make()
        recipe = schema.from_json(checkpoint.read_config(folder))
        network, shapes = build.abstract_network(recipe)
        target = sharding.placed(mesh, jax.eval_shape(recipe.ema.init, shapes))
        if ema is not None and ema not in recipe.ema.names:
            average, step = _reconstructed(recipe, folder, target, step, ema)
        else:
            average, step = checkpoint.restore_average(folder, target, step)
            average = recipe.ema.choose(average, ema or recipe.ema.names[0])
        return Trained.of_recipe(recipe, network, average, mesh, f"step {step}")

    @staticmethod
    def of_recipe(
        recipe: Recipe, network: Network, params: Any, mesh: jax.sharding.Mesh, name: str
    ) -> "Trained":
        """A recipe's network with these weights."""
        return Trained(
            model=recipe.model,
            preconditioning=recipe.preconditioning,
            sampling=recipe.sampling,
            network=network,
            params=params,
            mesh=mesh,
            knows_null=recipe.model.num_classes is not None and recipe.label_dropout > 0,
            name=name,
        )

    def denoiser(self, label: jax.Array) -> Denoise:
        """The denoiser with its guidance and clipping.

        Args:
          label: class of each image, -1 for none; ignored by a network without classes.
        """
        cond = {} if self.model.num_classes is None else {"label": label}
        make = partial(dm.denoiser, self.network, self.params, self.preconditioning)
        denoise = make(**cond)
        if self.sampling.guidance != 1:
            null = {name: jnp.full_like(value, -1) for name, value in cond.items()}
            denoise = dm.classifier_free(denoise, make(**null), self.sampling.guidance)
        return dm.clip(denoise) if self.sampling.clip_x_0 else denoise


def _reconstructed(
    recipe: Recipe, folder: Path, target: Any, step: int | None, ema: str
) -> tuple[Any, int]:
    """A power-function average that was not kept, from those of all checkpoints up to the step."""
    names, kept = ", ".join(recipe.ema.names), recipe.ema.sigma_rel_of
    try:
        sigma_rel = float(ema)
    except ValueError:
        raise ValueError(f"--ema {ema}: this run keeps {names}.") from None
    if not kept:
        raise ValueError(
            f"--ema {ema}: this run keeps {names}; others can be made of power-function "
            "averages alone."
        )
    last = step if step is not None else max(checkpoint.steps(folder), default=None)
    steps = [at for at in checkpoint.steps(folder) if last is not None and at <= last]
    if last not in steps:
        checkpoint.restore_average(folder, target, step)  # says what is missing
    assert last is not None
    snapshots = [(at, width) for at in steps for width in kept.values()]
    factors = iter(reconstruct(snapshots, last, sigma_rel).tolist())
    total: Any = None
    for at in steps:
        average, _ = checkpoint.restore_average(folder, target, at)
        for name in kept:
            factor = next(factors)
            part = jax.tree.map(lambda leaf, f=factor: f * leaf, recipe.ema.choose(average, name))
            total = part if total is None else jax.tree.map(jnp.add, total, part)
    return total, last


SCHEDULER = {
    "num_train_timesteps": 1000,
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "beta_schedule": "linear",
    "prediction_type": "epsilon",
    "variance_type": "fixed_small",
    "clip_sample": True,
    "trained_betas": None,
}
"""What diffusers' DDPMScheduler takes where scheduler_config.json is silent."""

PREDICTIONS = {"epsilon": dm.Eps, "v_prediction": dm.V, "sample": dm.X0}


def _of_diffusers(folder: Path) -> Trained:
    path = folder / "scheduler" / "scheduler_config.json"
    values = SCHEDULER | (json.loads(path.read_text()) if path.is_file() else {})
    for name, allowed in {
        "beta_schedule": ("linear",),
        "prediction_type": tuple(PREDICTIONS),
        "variance_type": ("fixed_small", "fixed_large"),
        "trained_betas": (None,),
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
    chain = dm.VPLinear(values["num_train_timesteps"], values["beta_start"], values["beta_end"])
    sampling = Sampling(
        sampler=dm.Ancestral(interpolation=float(values["variance_type"] == "fixed_large")),
        grid=dm.VPTimesteps(chain),
        num_steps=chain.num_timesteps,
        clip_x_0=values["clip_sample"],
    )
    network, params = unet_flax.functional(unet)
    mesh = dm.Mesh().make()
    return Trained(
        model=unet.config,
        preconditioning=PREDICTIONS[values["prediction_type"]](chain),
        sampling=sampling,
        network=network,
        params=sharding.on_every_device(mesh, params),
        mesh=mesh,
        knows_null=False,
        name="diffusers' weights",
    )
