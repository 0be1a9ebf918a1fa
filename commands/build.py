"""From a recipe to what a training run needs: network, state, training step, feed, records."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
from flax import nnx

import diffusion as dm
import unet_flax
from configs import recipe as schema
from configs.recipe import Recipe, Run
from diffusion import sharding
from diffusion.data import ImageArrays
from diffusion.denoiser import Network
from diffusion.run import checkpoint, hardware, hosts
from diffusion.run.feed import Feed, Resident, Streamed
from diffusion.run.journal import Files, Journal
from diffusion.run.tensorboard import TensorBoard
from diffusion.run.tracker import Tracker
from diffusion.training.step import TrainStep


def abstract_network(recipe: Recipe) -> tuple[Network, Any]:
    """The network, and its parameters as shapes; allocates nothing."""
    return unet_flax.functional(
        nnx.eval_shape(lambda: unet_flax.UNet(recipe.model, rngs=nnx.Rngs(0)))
    )


def check_fit(recipe: Recipe, dataset: ImageArrays) -> None:
    """Raises a ValueError where network, data and sampling do not fit each other."""
    recipe.sampling.grid(recipe.sampling.num_steps)  # refuses now, not after the training
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
    model = recipe.model
    for name in ("context_channels", "condition_channels", "self_conditioning"):
        if getattr(model, name):
            raise ValueError(
                f"model.{name}={getattr(model, name)} is for projects of your own: train.py gives "
                "the network nothing of that kind."
            )
    told = isinstance(recipe.augment, dm.NonLeaky)
    if model.augment_channels != (9 if told else None):
        raise ValueError(
            f"model.augment_channels={model.augment_channels} does not fit the augmentation "
            f"{type(recipe.augment).__name__}, which tells the network {9 if told else 'nothing'}."
        )
    if model.dims != 2:
        raise ValueError(f"model.dims={model.dims}, but images have 2.")
    if recipe.label_dropout and model.num_classes and not model.label.has_null:
        raise ValueError(
            f"label_dropout={recipe.label_dropout} needs model.label.has_null=true, "
            "or use a label_dropout of 0."
        )
    num_classes = None if dataset.labels is None else len(dataset.label_names)
    if recipe.model.num_classes != num_classes:
        raise ValueError(
            f"model.num_classes={recipe.model.num_classes}, but the data has {num_classes} classes."
        )


def claim(run_dir: Path, recipe: Recipe) -> None:
    """Writes the run's config.json, or raises a ValueError if another run lives there."""
    hosts.check_same(max(checkpoint.steps(run_dir), default=0), "checkpoints")
    if reached := checkpoint.steps(run_dir):
        if not (run_dir / "config.json").exists():
            raise ValueError(
                f"{run_dir} holds checkpoints, but config.json is missing beside them; bring it "
                "back, or choose another --run-dir."
            )
        stored = schema.from_json(checkpoint.read_config(run_dir))
        if different := schema.differences(stored, recipe):
            raise ValueError(
                f"{run_dir} belongs to a run with other settings ({'; '.join(different)}); "
                "choose another --run-dir, or give the same values."
            )
        if recipe.run.num_steps < reached[-1]:
            raise ValueError(
                f"{run_dir} is at step {reached[-1]} already, beyond run.num_steps="
                f"{recipe.run.num_steps}; choose another --run-dir, or more steps."
            )
    if hosts.is_main():
        checkpoint.write_config(run_dir, schema.to_json(recipe))


def start(recipe: Recipe, run_dir: Path, mesh: jax.sharding.Mesh) -> tuple[Network, dm.TrainState]:
    """The network, and the state of the run's latest checkpoint or a new one."""
    network, shapes = abstract_network(recipe)
    target = sharding.placed(mesh, jax.eval_shape(partial(new_state, recipe), shapes))
    if checkpoint.steps(run_dir):
        return network, checkpoint.restore(run_dir, target)

    @partial(jax.jit, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, target))
    def create(key: jax.Array) -> dm.TrainState:  # each device makes what it will hold
        unet = unet_flax.UNet(recipe.model, rngs=nnx.Rngs(key))
        return new_state(recipe, unet_flax.functional(unet)[1])

    return network, create(jax.random.fold_in(jax.random.key(recipe.run.seed), 0))


def new_state(recipe: Recipe, params: Any) -> dm.TrainState:
    """The state before the first step."""
    return dm.TrainState.create(params, recipe.optimizer.make(), recipe.ema, recipe.balance)


def train_step(recipe: Recipe, network: Network) -> tuple[TrainStep, jax.Array]:
    """The training step, and the key to call it with."""
    step = dm.make_train_step(
        network,
        recipe.preconditioning,
        recipe.noise,
        recipe.optimizer.make(),
        recipe.ema,
        weighting=recipe.weighting,
        balance=recipe.balance,
        coupling=recipe.coupling,
        label_dropout=recipe.label_dropout,
        augment=recipe.augment,
        accumulate=recipe.run.accumulate,
    )
    return step, jax.random.fold_in(jax.random.key(recipe.run.seed), 1)


def checkpoints(recipe: Recipe, run_dir: Path) -> checkpoint.Checkpoints:
    """The run's checkpoints, kept as the recipe says."""
    run = recipe.run
    return checkpoint.Checkpoints(run_dir, run.keep_checkpoints, run.keep_every_steps)


def journal(recipe: Recipe, run_dir: Path, step: int) -> Journal:
    """The run's records from a step on, written by the main host alone."""
    if not hosts.is_main():
        return Journal(run_dir, [])
    name = recipe.run.tracker
    with checkpoint.told(run_dir, OSError):
        trackers = [] if name is None else [Tracker(name, run_dir, schema.to_json(recipe))]
        return Journal(run_dir, [*trackers, Files(run_dir, step), TensorBoard(run_dir, step)])


def next_stop(run: Run, step: int, steps_per_dispatch: int, *, is_new: bool) -> int:
    """The next step at which something is written, or a signal looked for."""
    if is_new:
        return step + 1  # compiles, and the clock begins after it
    every = (run.log_every_steps, run.save_every_steps, run.sample_every_steps)
    return min(run.num_steps, step + steps_per_dispatch, *((step // n + 1) * n for n in every))


def is_grid_due(run: Run, step: int) -> bool:
    """Whether a grid of samples belongs to the step."""
    return step > 0 and (step % run.sample_every_steps == 0 or step == run.num_steps)


def feed(
    recipe: Recipe,
    dataset: ImageArrays,
    mesh: jax.sharding.Mesh,
    step: TrainStep,
    key: Any,
    first: int,
) -> Feed:
    """How the batches after step `first` reach the devices."""
    resides = hardware.suits_residence(dataset.pixels.nbytes, mesh.local_devices[0])
    by_itself = 1 if hosts.any_says(not resides) else 10
    steps, seed = recipe.run.steps_per_dispatch or by_itself, recipe.run.seed
    if steps == 1:
        return Streamed(step, dataset, mesh, key=key, seed=seed, first=first)
    return Resident(step, dataset, mesh, key=key, seed=seed, steps=steps)
