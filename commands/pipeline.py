"""A pipeline for sampling: a network, its weights, and how to sample from it."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt8

import diffusion as dm
from commands import averages, build, config_file, diffusers_folder, latents
from commands.build import Job
from commands.conventions import Conventions
from commands.latents import LatentSpace
from configs.recipe import Recipe, Sampling
from diffusion import sharding
from diffusion.conditions import IMAGES, TEXTS, null
from diffusion.data import AnyDataset
from diffusion.data.dataset import Dataset
from diffusion.data.latents import image_names
from diffusion.data.text.texts import TextReader
from diffusion.denoiser import Denoise, Denoiser, Network, Preconditioning
from diffusion.keys import IMPL
from diffusion.pixels import from_pixels, to_pixels
from diffusion.run import best, checkpoint, data_record
from unet_flax import Model


@dataclass(frozen=True)
class Pipeline:
    """A network, its weights, and how to sample from it.

    Attributes:
      model: the network's configuration.
      preconditioning: the one that the network was trained with.
      sampling: sampler, grid and guidance.
      network: `network(params, x, c_noise, **cond)`.
      params: the network's weights, usually averaged ones, on the mesh.
      mesh: the devices over which images are sharded.
      trains_null: the conditions whose null the network was trained with, which guidance needs.
      name: describes the weights in messages, such as "step 2400, average 0.999".
      conditions: further inputs of the network by keyword, one row for each image; if there are
        more images than rows, the rows repeat.
      negative: what guidance to a text leads away from, as conditions of one row; the null text
        where there is none.
      reader: reads the texts that the network takes; None for a network without texts.
      latents: the latents that the network works on; None where it works on the images themselves.
      source: the image that a network edits as a text says.
      attention: changes the denoiser under all conditions, before guidance; None for no change.
      texts: text of each image, for messages; the rows repeat, as those of conditions.
      data: the configuration of the data that the network was trained with, if it is known.
      conventions: how noise, result and clipping differ from those of a recipe.
      class_names: name of each class; empty if the classes have no names.
    Raises:
      ValueError: guidance for a network that was not trained with the null class, a network that
        returns images of other channels than it takes, or a sampler that needs a learned variance
        with a network that has none.
    """

    model: Model
    preconditioning: Preconditioning
    sampling: Sampling
    network: Network
    params: Any
    mesh: jax.sharding.Mesh
    trains_null: frozenset[str]
    name: str
    conditions: dict[str, np.ndarray] = field(default_factory=dict)
    negative: dict[str, np.ndarray] = field(default_factory=dict)
    reader: TextReader | None = None
    latents: LatentSpace | None = None
    source: UInt8[np.ndarray, "H W C"] | None = None
    attention: Callable[[Denoiser], Denoise] | None = None
    texts: tuple[str, ...] = ()
    data: AnyDataset | None = None
    conventions: Conventions = Conventions()
    class_names: tuple[str, ...] = ()

    def __post_init__(self):
        self.sampling.check_guidance(self.trains_null)
        *_, taken = self.model.image_shape
        returned = self.model.output_channels
        if returned not in (taken, 2 * taken):  # twice as many: their mean and variance
            raise ValueError(
                f"the network takes {taken} channels and returns {returned}, so its output is no "
                f"estimate of its input; only networks that return {taken} can be sampled."
            )
        if self.sampling.sampler.needs_variance and returned == taken:
            raise ValueError(
                f"the network returns {taken} channels, which are the mean alone, but its recipe "
                "or scheduler says that it learned the variance; set variance_type='fixed_small'."
            )

    def check(self) -> None:
        """Raises a ValueError unless the grid and the conventions have this number of steps."""
        self.conventions.check(self.sampling)
        if len(self.sampling.grid(self.sampling.num_steps)) < 2:
            raise ValueError(f"num_steps={self.sampling.num_steps} leaves no step; use 2 or more.")

    def denoiser(self, label: Int[Array, "B"], **conditions: Array) -> Denoise:
        """The denoiser with its guidance and clipping.

        Args:
          label: class of each image, -1 for none; ignored by a network without classes.
          conditions: further inputs of the network.
        """
        given = conditions if self.model.num_classes is None else {"label": label, **conditions}
        make = partial(dm.denoiser, self.network, self.params, self.preconditioning)
        conditioned = make(**given)
        denoise = conditioned if self.attention is None else self.attention(conditioned)
        scale, image_scale = self.sampling.guidance, self.sampling.image_guidance
        if scale != 1 or image_scale != 1:
            # class and text are left out where the network learned to do without them
            without_text = given | {
                name: self._away(name, value)
                for name, value in given.items()
                if name not in IMAGES and name in (self.trains_null | self.negative.keys())
            }
            if image_scale == 1:
                denoise = dm.classifier_free(denoise, make(**without_text), scale)
            else:
                neither = without_text | {
                    name: null(name, value) for name, value in given.items() if name in IMAGES
                }
                denoise = dm.image_and_text_guided(
                    *(denoise, make(**without_text), make(**neither)),
                    scale=scale,
                    image_scale=image_scale,
                )
        return self.conventions.clip(denoise) if self.sampling.clip_x_0 else denoise

    def _away(self, name: str, value: Array) -> Array:
        if name in self.negative:
            return jnp.broadcast_to(self.negative[name], value.shape)
        return null(name, value)

    @property
    def image_shape(self) -> tuple[int, ...]:
        """The shape (H, W, C) of the images that are drawn."""
        shape = self.model.image_shape
        return shape if self.latents is None else self.latents.image_shape(shape)

    def encode(self, pixels: UInt8[np.ndarray, "N H W C"]) -> Float[np.ndarray, "N h w D"]:
        """Images as the network takes them: in [-1, 1], or their latents."""
        return from_pixels(pixels) if self.latents is None else self.latents.encode(pixels)

    @property
    def edits_images(self) -> bool:
        """Whether the network changes a given image as a text says."""
        return self.reader is not None and "condition" in self.model.inputs

    def noise_of_seed(self, seed: int) -> Float[Array, "..."]:
        """The unit noise that the first image of a seed starts from."""
        key = jax.random.key(seed, impl=IMPL)
        return noise_and_keys(key, jnp.arange(1), self.model.image_shape)[0][0]

    def conditions_of(self, index: Int[np.ndarray, "N"]) -> dict[str, np.ndarray]:
        """The conditions of the images with these indices."""
        return {name: rows[index % len(rows)] for name, rows in self.conditions.items()}


@partial(jax.jit, static_argnames="shape")
def noise_and_keys(
    key: jax.Array, index: jax.Array, shape: tuple[int, ...]
) -> tuple[jax.Array, jax.Array]:
    """For each image the unit noise to start from and the sampler's key, by seed and index."""

    def of_image(i: jax.Array) -> tuple[jax.Array, jax.Array]:
        noise_key, sampler_key = jax.random.split(jax.random.fold_in(key, i))
        return jax.random.normal(noise_key, shape, jnp.float32), sampler_key

    return jax.vmap(of_image)(index)


def of_weights(
    recipe: Recipe,
    network: Network,
    params: Any,
    mesh: jax.sharding.Mesh,
    name: str,
    reader: TextReader | None = None,
    latents: LatentSpace | None = None,
) -> Pipeline:
    """The pipeline of a recipe with these weights.

    Args:
      name: describes the weights in messages.
      reader: reads the texts of a network that takes any.
      latents: those that a network works on, if it does.
    """
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
        reader=reader,
        latents=latents,
        data=recipe.data,
        class_names=getattr(recipe.data, "class_names", None) or (),  # few datasets name them
    )


def of_job(job: Job, state: dm.TrainState) -> Pipeline:
    """The pipeline of a run in training, with its first average."""
    recipe = job.recipe
    assert isinstance(recipe, Recipe)  # autoencoders draw nothing
    average = recipe.ema.choose(state.ema, recipe.ema.names[0])
    name = f"step {int(state.step)}"
    return of_weights(recipe, job.network, average, job.mesh, name, latents=job.latents)


def takes_conditions(model: Model) -> bool:
    """Whether the network has conditions other than the class and the augmentation."""
    return bool(model.inputs.keys() - {"label", "augment_label"})


def with_conditions(pipeline: Pipeline, dataset: Dataset | None = None, count: int = 1) -> Pipeline:
    """Adds the dataset's first batches as conditions, if the network takes any.

    Args:
      dataset: None loads the data that the network was trained with.
      count: at least so many rows are added.
    """
    if not takes_conditions(pipeline.model):
        return pipeline
    if dataset is None:
        assert pipeline.data is not None  # networks of diffusers folders take no conditions
        dataset = pipeline.data.load()
    batches = [dataset.batch(0, step) for step in range(-(-count // dataset.batch_size))]
    rows = {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}
    return with_rows(pipeline, rows)


def with_rows(pipeline: Pipeline, rows: dict[str, np.ndarray]) -> Pipeline:
    """Adds the conditions of these examples, given as a batch.

    Args:
      rows: images in [-1, 1], also where the network works on latents.
    """
    conditions = {name: values for name, values in rows.items() if name not in ("image", "label")}
    if pipeline.latents is not None:
        for name in image_names(rows).intersection(conditions):
            conditions[name] = pipeline.encode(to_pixels(conditions[name]))
    return dataclasses.replace(pipeline, conditions=conditions)


def read(folder: Path, step: int | str | None = None, ema: str | None = None) -> Pipeline:
    """Reads a run's averaged weights, or the network of a diffusers folder.

    Args:
      step: step of the checkpoint, or "best" for the one whose samples had the smallest distance;
        None for the latest.
      ema: name of the average, or any sigma_rel if the run keeps power-function averages; None for
        the first average.
    Raises:
      FileNotFoundError: the folder is neither, or has no such checkpoint.
      ValueError: a file is damaged or not supported, or there is no such average.
    """
    if diffusers_folder.is_diffusers_folder(folder):
        for option, value in {"--step": step, "--ema": ema}.items():
            if value is not None:
                raise ValueError(
                    f"{option} {value}: {folder} is a diffusers folder, which has one set of "
                    "weights."
                )
        return _of_diffusers(folder)
    mesh = dm.Mesh().make()
    recipe = config_file.from_json(checkpoint.read_config(folder))
    if not isinstance(recipe, Recipe):
        raise ValueError(
            f"{folder} is the run of an autoencoder, which draws no images; train a recipe on its "
            f"latents, such as `python train.py emoji_latent --latents.autoencoder {folder}`."
        )
    at = _best_step(folder) if step == "best" else step
    assert not isinstance(at, str)
    network, shapes = build.abstract_network(recipe)
    target = sharding.placed(mesh, jax.eval_shape(recipe.ema.init, shapes))
    params, step = averages.read(folder, recipe.ema, target, at, ema)
    name = f"step {step}, average {ema or recipe.ema.names[0]}"
    space = None if recipe.latents is None else latents.of_run(recipe.latents, folder, mesh)
    return of_weights(recipe, network, params, mesh, name, _reader(folder, recipe), space)


def _reader(folder: Path, recipe: Recipe) -> TextReader | None:
    """The reader of a run's texts; None for a run without texts."""
    data: Any = recipe.data
    if not data.spec.keys() & {*TEXTS}:
        return None
    try:
        return data.text.read(data_record.tokenizer(folder))
    except ValueError as error:
        raise ValueError(f"{folder / data_record.TOKENIZER}: {error}") from error


def _best_step(folder: Path) -> int:
    found = best.best_step(folder)
    if found is None:
        raise ValueError(
            f"--step best: {folder} was not measured while it trained; give a step, or none."
        )
    return found


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
        trains_null=frozenset(),
        name=found.name,
        conventions=found.conventions,
    )
