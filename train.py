"""Trains a diffusion U-Net: `python train.py RECIPE [--section.field VALUE ...] [--run-dir DIR]`.

Without arguments lists the recipes; `RECIPE --help` lists every field. A folder that holds a
checkpoint is resumed, bit for bit as if it had never stopped.
"""

import math
import sys
import time
from contextlib import closing
from pathlib import Path

import jax
import numpy as np
from tqdm import tqdm

import diffusion as dm
import sample
from configs import Recipe, Run, build, cli, request, schema
from diffusion import checkpoint, images, sharding
from diffusion.data import ImageArrays
from diffusion.denoiser import Network
from diffusion.journal import Journal, Meter


def main(argv: list[str]) -> None:
    with cli.one_line_errors():
        recipe, run_dir = cli.parse_train(argv)
        mesh = recipe.mesh.make()
        sharding.check_batch_size(mesh, recipe.data.batch_size)
        claim(run_dir, recipe)
        dataset = recipe.data.load()
        build.check_fit(recipe, dataset)
        network, state = build.start(recipe, run_dir, mesh)
    with cli.one_line_errors(OSError):
        train(recipe, run_dir, mesh, dataset, network, state)


def claim(run_dir: Path, recipe: Recipe) -> None:
    """Writes the run's config.json, or raises a ValueError if another run lives there."""
    if checkpoint.steps(run_dir):
        stored = schema.from_json(checkpoint.read_config(run_dir))
        if different := schema.differences(stored, recipe):
            raise ValueError(
                f"{run_dir} belongs to a run with other settings ({'; '.join(different)}); "
                "choose another --run-dir, or give the same values."
            )
    checkpoint.write_config(run_dir, schema.to_json(recipe))


def train(
    recipe: Recipe,
    run_dir: Path,
    mesh: jax.sharding.Mesh,
    dataset: ImageArrays,
    network: Network,
    state: dm.TrainState,
) -> None:
    """Trains from state.step to run.num_steps, and writes the run's folder.

    Raises:
      FloatingPointError: the loss is nan or inf; names the last checkpoint.
    """
    run, batch_size, first = recipe.run, dataset.batch_size, int(state.step)
    began = time.perf_counter()
    train_step, key = build.train_step(recipe, network)
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    print(f"{run_dir}: {num_parameters:,} parameters, steps {first} to {run.num_steps}", flush=True)
    with (
        closing(Journal(run_dir, first)) as journal,
        closing(checkpoint.Checkpoints(run_dir, run.keep_checkpoints)) as checkpoints,
        tqdm(
            total=run.num_steps * batch_size,
            initial=first * batch_size,
            unit="img",
            unit_scale=True,
            disable=None,  # shown on a terminal only
        ) as bar,
    ):
        meter, checked = Meter(batch_size), first
        for step in range(first + 1, run.num_steps + 1):
            batch = sharding.shard_batch(mesh, dataset.batch(run.seed, step - 1))
            state, metrics = train_step(state, batch, key)
            meter.add(metrics)
            bar.update(batch_size)
            if step == first + 1:
                jax.block_until_ready(metrics)
                meter.restart_clock()  # without the compilation
                bar.unpause()

            is_last = step == run.num_steps
            saves = is_last or step % run.save_every_steps == 0
            draws = step % run.sample_every_steps == 0 and not is_last
            if saves or draws or step % run.log_every_steps == 0:
                values = meter.read()
                if not all(map(math.isfinite, values.values())):
                    checkpoints.wait()
                    raise FloatingPointError(diverged(run, run_dir, checked, step, values))
                checked = step
                journal.metrics(step, values)
                report(bar, step, run.num_steps, values)
            if saves:
                checkpoints.save(state)
            if draws:
                journal.samples(step, draw_grid(recipe, network, state))
                meter.restart_clock()
        bar.close()
        reached = int(state.step)
        grid = run_dir / "samples" / f"{reached}.png"
        if not grid.exists():
            journal.samples(reached, draw_grid(recipe, network, state))
    print(f"{reached - first} steps in {time.perf_counter() - began:.0f} s; samples: {grid}")


def draw_grid(recipe: Recipe, network: Network, state: dm.TrainState) -> np.ndarray:
    average = recipe.ema.choose(state.ema, recipe.ema.names[0])
    trained = build.of_recipe(recipe, network, average, f"step {state.step}")
    labels = request.labels(trained, None, recipe.run.num_samples)
    return images.grid(sample.draw(trained, labels, seed=0))


def report(bar: tqdm, step: int, num_steps: int, values: dict[str, float]) -> None:
    """Shows the loss in the progress bar, or in a plain line where there is no terminal."""
    bar.set_postfix(loss=f"{values['loss']:.4f}")
    if bar.disable:
        speed = f"{values['images_per_second']:.0f} img/s" if "images_per_second" in values else ""
        print(f"step {step}/{num_steps}  loss {values['loss']:.4f}  {speed}", flush=True)


def diverged(run: Run, run_dir: Path, before: int, step: int, values: dict[str, float]) -> str:
    name = next(name for name, value in values.items() if not math.isfinite(value))
    saved = checkpoint.steps(run_dir)
    last = run_dir / "checkpoints" / str(saved[-1]) if saved else "none yet"
    return (
        f"{name} is {values[name]} between steps {before} and {step} (seed {run.seed}); last "
        f"checkpoint: {last}. A lower --optimizer.learning-rate may help."
    )


if __name__ == "__main__":
    main(sys.argv[1:])
