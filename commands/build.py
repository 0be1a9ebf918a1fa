"""Builds the parts of a training run from its recipe: network, state, step, feed, journal."""

import json
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, cast

import jax
from flax import nnx

import diffusion as dm
import unet_flax
from commands import config_file, latents, perceptual
from commands.latents import LatentSpace
from configs.recipe import AnyRecipe, AutoencoderRecipe, Run
from diffusion import sharding
from diffusion.data.dataset import Dataset
from diffusion.data.latents import encoded
from diffusion.denoiser import Network
from diffusion.keys import IMPL
from diffusion.run import best, checkpoint, data_record, hosts, weights
from diffusion.run.feed import Feed, make_feed
from diffusion.run.journal import Files, Journal
from diffusion.run.tensorboard import TensorBoard
from diffusion.run.tracker import Tracker
from diffusion.training.update import TrainStep
from unet_flax import Model


@dataclass(frozen=True)
class Job:
    """A training run, ready to start or resume.

    Attributes:
      recipe: the recipe, resolved.
      run_dir: the run's folder.
      mesh: the devices.
      images: the training data.
      dataset: what the network is trained on: the images, or their latents.
      network: `network(params, x, c_noise, **cond)`.
      train_step, key: takes a training step, and the run's random key for it.
      latents: the latents that the network works on; None where it works on the images.
      profile_steps: first and last step to trace, or None.
    """

    recipe: AnyRecipe
    run_dir: Path
    mesh: jax.sharding.Mesh
    images: Dataset
    dataset: Dataset
    network: Network
    train_step: TrainStep
    key: jax.Array
    latents: LatentSpace | None = None
    profile_steps: tuple[int, int] | None = None


def job(
    recipe: AnyRecipe,
    run_dir: Path,
    mesh: jax.sharding.Mesh,
    profile_steps: tuple[int, int] | None = None,
) -> Job:
    """Loads the data and makes the network.

    Raises:
      ValueError, OSError: the data cannot be read, differs from the recipe's `data.spec`, or does
        not lie in memory for several steps per dispatch.
    """
    resolved, dataset = recipe.resolved(), recipe.data.load()
    images, steps = dataset, recipe.run.steps_per_dispatch
    if (found := _described(dataset.spec)) != (stated := _described(recipe.data.spec)):
        raise ValueError(f"the data has {found}, but its configuration says {stated}.")
    space = None
    if recipe.latents is not None:
        space = latents.of_run(recipe.latents, run_dir, mesh)
        dataset = encoded(images, space.encode, space.fingerprint)
    if steps not in (None, 1) and dataset.resident() is None:
        raise ValueError(
            f"run.steps_per_dispatch={steps} needs a dataset that lies in memory, and this one "
            "does not; use 1, or none."
        )
    network, _ = abstract_network(resolved)
    step, key = train_step(resolved, network)
    return Job(resolved, run_dir, mesh, images, dataset, network, step, key, space, profile_steps)


def _described(spec: dict[str, jax.ShapeDtypeStruct]) -> str:
    return ", ".join(f"{name} {spec[name].shape} {spec[name].dtype}" for name in sorted(spec))


def abstract_network(recipe: AnyRecipe) -> tuple[Network, Any]:
    """The network, and the shapes of its parameters, not to be changed; allocates no arrays."""
    return _abstract(recipe.resolved().model)


@lru_cache  # a command asks two or three times, and making a large network takes seconds
def _abstract(model: Model) -> tuple[Network, Any]:
    return unet_flax.functional(nnx.eval_shape(lambda: unet_flax.make(model, nnx.Rngs(0))))


def claim(
    run_dir: Path, recipe: AnyRecipe, dataset: Dataset, space: LatentSpace | None = None
) -> None:
    """Writes the run's config.json and data.json, and its copy of the autoencoder.

    Args:
      space: the latents that the network works on, if it does.

    Raises:
      ValueError: the folder belongs to another run, or to one that began on other data.
    """
    reached = max(checkpoint.steps(run_dir), default=0)
    advice = "the run's folder must be on a file system that all hosts share"
    hosts.check_same(reached, "checkpoints", advice)
    if reached:
        if not (run_dir / "config.json").exists():
            raise ValueError(
                f"{run_dir} holds checkpoints, but no config.json; restore that file, or choose "
                "another --run-dir."
            )
        stored = config_file.from_json(checkpoint.read_config(run_dir))
        if different := config_file.differences(stored, recipe):
            raise ValueError(
                f"{run_dir} belongs to a run with other settings ({'; '.join(different)}); "
                "choose another --run-dir, or give the same values."
            )
        if recipe.run.num_steps < reached:
            raise ValueError(
                f"{run_dir} is already at step {reached}, beyond run.num_steps="
                f"{recipe.run.num_steps}; use more steps, or another --run-dir."
            )
    config = config_file.to_json(recipe)
    data_record.claim(run_dir, dataset, resumes=bool(reached))
    if hosts.is_main():
        checkpoint.write_config(run_dir, config)
        if space is not None:
            latents.keep(space, run_dir)


def start(job: Job) -> dm.TrainState:
    """The state of the run's latest checkpoint, or a new one."""
    _, shapes = abstract_network(job.recipe)
    target = sharding.placed(job.mesh, jax.eval_shape(job.recipe.new_state, shapes))
    if checkpoint.steps(job.run_dir):
        return checkpoint.restore(job.run_dir, target)

    @partial(jax.jit, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, target))
    def create(key: jax.Array) -> dm.TrainState:  # jitted: each device makes only its own shards
        module = unet_flax.make(job.recipe.model, nnx.Rngs(key))
        return job.recipe.new_state(unet_flax.functional(module)[1])

    return create(jax.random.fold_in(jax.random.key(job.recipe.run.seed, impl=IMPL), 0))


def train_step(recipe: AnyRecipe, network: Network) -> tuple[TrainStep, jax.Array]:
    """The training step, and the run's random key for it.

    Raises:
      OSError, ValueError: an autoencoder is trained with LPIPS, whose weights cannot be read.
    """
    key = jax.random.fold_in(jax.random.key(recipe.run.seed, impl=IMPL), 1)
    if isinstance(recipe, AutoencoderRecipe):
        return recipe.make_step(cast(Any, network), perceptual.read(recipe.perceptual_files)), key
    return recipe.make_step(network), key


def checkpoints(job: Job) -> checkpoint.Checkpoints:
    """The writer of the run's checkpoints."""
    run = job.recipe.run
    best_step = partial(best.best_step, job.run_dir)
    return checkpoint.Checkpoints(
        job.run_dir, run.keep_checkpoints, run.keep_every_steps, best_step
    )


def save_weights(job: Job, state: dm.TrainState) -> None:
    """Writes the averages as safetensors; all hosts must call it.

    The recipe's first average is weights.safetensors, another one weights-NAME.safetensors.
    """
    model = json.dumps(config_file.model_to_json(cast(Model, job.recipe.model)))
    for name in (names := job.recipe.ema.names):
        params = hosts.fetch(job.recipe.ema.choose(state.ema, name))
        if hosts.is_main():
            file = "weights.safetensors" if name == names[0] else f"weights-{name}.safetensors"
            metadata = {"step": str(int(state.step)), "average": name, "model": model}
            with checkpoint.as_save_error(job.run_dir, OSError):
                weights.save(job.run_dir / file, params, metadata)


def journal(job: Job, step: int) -> Journal:
    """The run's journal from a step on; only the main host writes."""
    run_dir, name = job.run_dir, job.recipe.run.tracker
    if not hosts.is_main():
        return Journal(run_dir, [])
    with checkpoint.as_save_error(run_dir, OSError):
        trackers = []
        if name is not None:
            trackers = [Tracker(name, run_dir, config_file.to_json(job.recipe))]
        return Journal(run_dir, [*trackers, Files(run_dir, step), TensorBoard(run_dir, step)])


def feed(job: Job, first: int) -> Feed:
    """The feed of batches after step `first`."""
    run = job.recipe.run
    return make_feed(
        job.train_step,
        job.dataset,
        job.mesh,
        key=job.key,
        seed=run.seed,
        first=first,
        steps_per_dispatch=run.steps_per_dispatch,
    )


def next_stop(run: Run, step: int, steps_per_dispatch: int, *, is_new: bool) -> int:
    """The next step at which the training loop writes something or checks for signals."""
    if is_new:
        return step + 1  # the first step compiles; the speed is measured from the second on
    every = [run.log_every_steps, run.save_every_steps, run.sample_every_steps]
    every += [] if run.evaluate_every_steps is None else [run.evaluate_every_steps]
    return min(run.num_steps, step + steps_per_dispatch, *((step // n + 1) * n for n in every))


def image_shape(recipe: AnyRecipe) -> tuple[int, ...]:
    """The shape (H, W, C) of the images of a recipe's data."""
    return recipe.data.spec["image"].shape


def is_grid_due(run: Run, step: int) -> bool:
    """Whether a grid of samples is drawn at this step."""
    return step > 0 and (step % run.sample_every_steps == 0 or step == run.num_steps)
