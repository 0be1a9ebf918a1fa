"""What sampling starts from: a network, its weights, and how they are meant to be used."""

import dataclasses
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

import diffusion as dm
from commands import averages, build, config_file, diffusers_folder
from configs.recipe import Recipe, Sampling
from diffusion import sharding
from diffusion.data.dataset import Dataset
from diffusion.denoiser import Denoise, Network, Preconditioning
from diffusion.run import checkpoint
from unet_flax import Model


@dataclass(frozen=True)
class Pipeline:
    """A network, its weights, and how to draw from them.

    Attributes:
      model: what the network takes and gives.
      preconditioning: the one that it was trained with.
      sampling: how to draw from it where nothing else is asked for.
      network: `network(params, x, c_noise, **cond)`.
      params: its weights, usually averaged ones, on the mesh.
      mesh: the devices among which images are shared out.
      trains_null: whether it was trained on the null class, which guidance needs.
      name: for people, such as "step 2400".
      conditions: what the network takes besides the class, as arrays of one row for each image;
        further images repeat the rows.
    Raises:
      ValueError: guidance without a null class.
    """

    model: Model
    preconditioning: Preconditioning
    sampling: Sampling
    network: Network
    params: Any
    mesh: jax.sharding.Mesh
    trains_null: bool
    name: str
    conditions: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self):
        if self.sampling.guidance != 1 and not self.trains_null:
            raise ValueError(
                f"guidance={self.sampling.guidance} needs a network that was trained with classes "
                "and with label_dropout above 0; use 1."
            )

    def denoiser(self, label: Int[Array, "B"], **conditions: Array) -> Denoise:
        """The denoiser with its guidance and clipping.

        Args:
          label: class of each image, -1 for none; ignored by a network without classes.
          conditions: what else the network takes.
        """
        labels = {} if self.model.num_classes is None else {"label": label}
        make = partial(dm.denoiser, self.network, self.params, self.preconditioning, **conditions)
        denoise = make(**labels)
        if self.sampling.guidance != 1:
            uncond = make(label=jnp.full_like(label, -1))
            denoise = dm.classifier_free(denoise, uncond, self.sampling.guidance)
        return dm.clip(denoise) if self.sampling.clip_x_0 else denoise

    def noise_of_seed(self, seed: int) -> Float[Array, "..."]:
        """The unit noise from which the first image of a seed is drawn."""
        return noise_and_keys(jax.random.key(seed), jnp.arange(1), self.model.image_shape)[0][0]

    def conditions_of(self, index: Int[np.ndarray, "N"]) -> dict[str, np.ndarray]:
        """The conditions of the images of these numbers."""
        return {name: rows[index % len(rows)] for name, rows in self.conditions.items()}


@partial(jax.jit, static_argnames="shape")
def noise_and_keys(
    key: jax.Array, index: jax.Array, shape: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """Unit noise to start from, and a key for the sampler: functions of the seed and the index."""

    def of_image(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        noise_key, sampler_key = jax.random.split(jax.random.fold_in(key, i))
        return jax.random.normal(noise_key, shape), sampler_key

    return jax.vmap(of_image)(index)


def of_weights(
    recipe: Recipe, network: Network, params: Any, mesh: jax.sharding.Mesh, name: str
) -> Pipeline:
    """A recipe's network with these weights."""
    resolved = recipe.resolved()
    return Pipeline(
        model=resolved.model,
        preconditioning=resolved.preconditioning,
        sampling=resolved.sampling,
        network=network,
        params=params,
        mesh=mesh,
        trains_null=recipe.trains_null,
        name=name,
    )


def takes_conditions(model: Model) -> bool:
    """Whether the network takes more of an image than its class."""
    return bool(model.inputs.keys() - {"label", "augment_label"})


def with_conditions(pipeline: Pipeline, dataset: Dataset) -> Pipeline:
    """The pipeline with the dataset's first batch as conditions, where its network takes any."""
    if not takes_conditions(pipeline.model):
        return pipeline
    batch = dataset.batch(0, 0)
    conditions = {name: values for name, values in batch.items() if name not in ("image", "label")}
    return dataclasses.replace(pipeline, conditions=conditions)


def read(folder: Path, step: int | None = None, ema: str | None = None) -> Pipeline:
    """Reads a run's averaged weights, or the network of a diffusers folder.

    Args:
      step: of the checkpoint; None for the latest.
      ema: name of the average, or any sigma_rel where power-function averages are kept; None for
        the first.
    Raises:
      FileNotFoundError: it is neither, or has no such checkpoint.
      ValueError: what is there is damaged, or cannot be expressed here; no such average.
    """
    if diffusers_folder.is_one(folder):
        for option, value in {"--step": step, "--ema": ema}.items():
            if value is not None:
                raise ValueError(
                    f"{option} {value}: {folder} is a diffusers folder, which has one set of "
                    "weights."
                )
        return _of_diffusers(folder)
    mesh = dm.Mesh().make()
    recipe = config_file.from_json(checkpoint.read_config(folder))
    network, shapes = build.abstract_network(recipe)
    target = sharding.placed(mesh, jax.eval_shape(recipe.ema.init, shapes))
    params, step = averages.read(folder, recipe.ema, target, step, ema)
    pipeline = of_weights(recipe, network, params, mesh, f"step {step}")
    if takes_conditions(pipeline.model):
        return with_conditions(pipeline, recipe.data.load())
    return pipeline


def _of_diffusers(folder: Path) -> Pipeline:
    found = diffusers_folder.read(folder)
    mesh = dm.Mesh().make()
    return Pipeline(
        model=found.model,
        preconditioning=found.preconditioning,
        sampling=found.sampling,
        network=found.network,
        params=sharding.on_every_device(mesh, found.params),
        mesh=mesh,
        trains_null=False,
        name="diffusers' weights",
    )
