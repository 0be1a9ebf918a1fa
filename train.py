"""Trains a diffusion U-Net: `python train.py RECIPE [--section.field VALUE ...] [--run-dir DIR]`.

Without arguments lists the recipes; `RECIPE --help` lists every field. A folder that holds a
checkpoint is resumed, bit for bit as if it had never stopped.
"""

import sys
import time
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from tqdm import tqdm

import diffusion as dm
import sample
import unet_flax
from configs import Recipe, cli, schema
from diffusion import checkpoint, images, sharding
from diffusion.data import ImageArrays
from diffusion.denoiser import Network
from diffusion.journal import Journal


def main(argv: list[str]) -> None:
    with cli.one_line_errors():
        recipe, run_dir = cli.parse_train(argv)
        mesh = recipe.mesh.make()
        sharding.check_batch_size(mesh, recipe.data.batch_size)
        claim(run_dir, recipe)
        dataset = recipe.data.load()
        check_fit(recipe, dataset)
        network, state = start(recipe, run_dir, mesh)
    with cli.one_line_errors():
        train(recipe, run_dir, mesh, dataset, network, state)


def claim(run_dir: Path, recipe: Recipe) -> None:
    """Writes the run's config.json, or raises a ValueError if another run lives there."""
    if (run_dir / "config.json").exists():
        stored = schema.from_json(checkpoint.read_config(run_dir))
        if different := schema.differences(stored, recipe):
            raise ValueError(
                f"{run_dir} belongs to a run with other settings ({'; '.join(different)}); "
                "choose another --run-dir, or give the same values."
            )
    checkpoint.write_config(run_dir, schema.to_json(recipe))


def check_fit(recipe: Recipe, dataset: ImageArrays) -> None:
    """Raises a ValueError where the network does not fit the data."""
    size, channels = recipe.model.image_size, recipe.model.in_channels
    if dataset.pixels.shape[1:] != (size, size, channels):
        raise ValueError(
            f"the images are {dataset.pixels.shape[1:]} (height, width, channels), but the model "
            f"takes ({size}, {size}, {channels}); set --model.image-size and --model.in-channels."
        )
    num_classes = None if dataset.labels is None else len(dataset.label_names)
    if recipe.model.num_classes != num_classes:
        raise ValueError(
            f"model.num_classes={recipe.model.num_classes}, but the data has {num_classes} classes."
        )


def start(recipe: Recipe, run_dir: Path, mesh: jax.sharding.Mesh) -> tuple[Network, dm.TrainState]:
    """The network, and the latest checkpoint's state or a new one."""
    network, params = sample.abstract_network(recipe)
    optimizer = recipe.optimizer.make()

    def create(params):
        return dm.TrainState.create(params, optimizer, recipe.ema)

    state = jax.eval_shape(create, params)
    shardings = sharding.state_sharding(mesh, state)
    if checkpoint.steps(run_dir):
        target = jax.tree.map(
            lambda leaf, at: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=at),
            state,
            shardings,
        )
        return network, checkpoint.restore(run_dir, target)
    weights_key = jax.random.fold_in(jax.random.key(recipe.run.seed), 0)
    _, params = unet_flax.functional(unet_flax.UNet(recipe.model, rngs=nnx.Rngs(weights_key)))
    return network, jax.device_put(create(params), shardings)


def train(
    recipe: Recipe,
    run_dir: Path,
    mesh: jax.sharding.Mesh,
    dataset: ImageArrays,
    network: Network,
    state: dm.TrainState,
) -> dm.TrainState:
    """Trains from state.step to run.num_steps, and writes the run's folder.

    Raises:
      FloatingPointError: the loss is nan or inf; names the last checkpoint.
    """
    run, first = recipe.run, int(state.step)
    train_step = dm.make_train_step(
        network,
        recipe.preconditioning,
        recipe.noise,
        recipe.optimizer.make(),
        recipe.ema,
        label_dropout=recipe.label_dropout,
        augment=recipe.augment,
    )
    key = jax.random.fold_in(jax.random.key(run.seed), 1)
    labels = sample.chosen_labels(recipe, None, run.num_samples)
    journal = Journal(run_dir, first)
    checkpoints = checkpoint.Checkpoints(run_dir, run.keep_checkpoints)
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    print(f"{run_dir}: {num_parameters:,} parameters, steps {first} to {run.num_steps}", flush=True)
    bar = tqdm(
        total=run.num_steps * dataset.batch_size,
        initial=first * dataset.batch_size,
        unit="img",
        unit_scale=True,
        disable=None,  # on a terminal only
    )
    measured, since = [], time.perf_counter()
    for step in range(first + 1, run.num_steps + 1):
        batch = sharding.shard_batch(mesh, dataset.batch(run.seed, step - 1))
        state, metrics = train_step(state, batch, key)
        measured.append(metrics)
        bar.update(dataset.batch_size)

        is_last = step == run.num_steps
        saves = is_last or step % run.save_every_steps == 0
        draws = is_last or step % run.sample_every_steps == 0
        if saves or draws or step % run.log_every_steps == 0 or step == first + 1:
            values = mean(measured)
            elapsed = time.perf_counter() - since
            values["images_per_second"] = len(measured) * dataset.batch_size / elapsed
            if not np.isfinite(values["loss"]):
                checkpoints.wait()
                stop(run_dir, values["loss"], step - len(measured), step, run.seed)
            if step > first + 1:  # the first step compiles
                journal.metrics(step, values)
                report(bar, step, run.num_steps, values)
            measured = []
        if saves:
            checkpoints.save(state)
        if draws:
            pixels = sample.draw(recipe, network, state.ema, labels, seed=0)
            path = journal.samples(step, images.grid(pixels))
        if not measured:
            since = time.perf_counter()
    bar.close()
    checkpoints.close()
    journal.close()
    if first < run.num_steps:
        print(f"samples: {path}")
    return state


def mean(measured: list[dict[str, jax.Array]]) -> dict[str, float]:
    """Mean of each metric over some steps; waits for the device."""
    fetched = jax.device_get(measured)
    return {name: float(np.mean([m[name] for m in fetched])) for name in ("loss", "grad_norm")}


def stop(run_dir: Path, loss: float, before: int, step: int, seed: int) -> None:
    saved = checkpoint.steps(run_dir)
    last = run_dir / "checkpoints" / str(saved[-1]) if saved else "none was saved"
    raise FloatingPointError(
        f"loss is {loss} between steps {before} and {step} (seed {seed}); last checkpoint: {last}."
    )


def report(bar: tqdm, step: int, num_steps: int, values: dict[str, float]) -> None:
    if bar.disable:
        speed = values["images_per_second"]
        print(f"step {step}/{num_steps}  loss {values['loss']:.4f}  {speed:.0f} img/s", flush=True)
    bar.set_postfix(loss=f"{values['loss']:.4f}")


if __name__ == "__main__":
    main(sys.argv[1:])
