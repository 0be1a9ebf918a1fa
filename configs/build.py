"""From a recipe to what it names: network, state, training step, denoiser."""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

import diffusion as dm
import unet_flax
from configs.schema import Recipe
from diffusion import checkpoint, sharding
from diffusion.data import ImageArrays
from diffusion.denoiser import Denoise, Network
from diffusion.training import TrainStep


def abstract_network(recipe: Recipe) -> tuple[Network, Any]:
    """The network, and its parameters as shapes; allocates nothing."""
    return unet_flax.functional(
        nnx.eval_shape(lambda: unet_flax.UNet(recipe.model, rngs=nnx.Rngs(0)))
    )


def check_fit(recipe: Recipe, dataset: ImageArrays) -> None:
    """Raises a ValueError where the network does not fit the data."""
    size, channels = recipe.model.image_size, recipe.model.in_channels
    if dataset.pixels.shape[1:] != (size, size, channels):
        raise ValueError(
            f"the images are {dataset.pixels.shape[1:]} (height, width, channels), but the model "
            f"takes ({size}, {size}, {channels}); set --model.image-size and --model.in-channels."
        )
    if recipe.model.out_channels not in (None, channels):
        raise ValueError(
            f"model.out_channels={recipe.model.out_channels}, but the images have {channels} "
            "channels; use none."
        )
    num_classes = None if dataset.labels is None else len(dataset.label_names)
    if recipe.model.num_classes != num_classes:
        raise ValueError(
            f"model.num_classes={recipe.model.num_classes}, but the data has {num_classes} classes."
        )


def start(recipe: Recipe, run_dir: Path, mesh: jax.sharding.Mesh) -> tuple[Network, dm.TrainState]:
    """The network, and the state of the run's latest checkpoint or a new one."""
    network, shapes = abstract_network(recipe)
    optimizer = recipe.optimizer.make()

    def create(params: Any) -> dm.TrainState:
        return dm.TrainState.create(params, optimizer, recipe.ema)

    if checkpoint.steps(run_dir):
        target = sharding.placed(mesh, jax.eval_shape(create, shapes))
        return network, checkpoint.restore(run_dir, target)
    weights_key = jax.random.fold_in(jax.random.key(recipe.run.seed), 0)
    _, params = unet_flax.functional(unet_flax.UNet(recipe.model, rngs=nnx.Rngs(weights_key)))
    return network, sharding.place(mesh, create(params))


def train_step(recipe: Recipe, network: Network) -> tuple[TrainStep, jax.Array]:
    """The training step, and the key to call it with."""
    step = dm.make_train_step(
        network,
        recipe.preconditioning,
        recipe.noise,
        recipe.optimizer.make(),
        recipe.ema,
        label_dropout=recipe.label_dropout,
        augment=recipe.augment,
    )
    return step, jax.random.fold_in(jax.random.key(recipe.run.seed), 1)


def averaged_network(recipe: Recipe, run_dir: Path, step: int | None) -> tuple[Network, Any, int]:
    """The network, its averaged weights from a checkpoint, and the step they are of."""
    network, shapes = abstract_network(recipe)
    target = sharding.placed(dm.Mesh(data=1).make(), jax.eval_shape(recipe.ema.init, shapes))
    average, step = checkpoint.restore_average(run_dir, target, step)
    return network, average, step


def denoiser(recipe: Recipe, network: Network, params: Any, label: jax.Array) -> Denoise:
    """The denoiser with the recipe's guidance and clipping."""
    cond = {} if recipe.model.num_classes is None else {"label": label}
    denoise = dm.denoiser(network, params, recipe.preconditioning, **cond)
    if recipe.sampling.guidance != 1:
        null = {name: jnp.full_like(value, -1) for name, value in cond.items()}
        unconditional = dm.denoiser(network, params, recipe.preconditioning, **null)
        denoise = dm.classifier_free(denoise, unconditional, recipe.sampling.guidance)
    return dm.clip(denoise) if recipe.sampling.clip_x_0 else denoise
