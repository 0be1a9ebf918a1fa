"""Trains a diffusion U-Net: `python train.py RECIPE [--section.field VALUE ...] [--run-dir DIR]`.

Without arguments lists the recipes; `RECIPE --help` lists every field. A folder that holds a
checkpoint is resumed, bit for bit as if it had never stopped.
"""

import sys
import time
from contextlib import closing
from pathlib import Path

import jax
from tqdm import tqdm

import diffusion as dm
import sample
from configs import Recipe, Run, build, cli, compiled, cost, request
from configs.trained import Trained
from diffusion import checkpoint, hosts, images, sharding, tracker
from diffusion.data import ImageArrays
from diffusion.denoiser import Network
from diffusion.journal import Journal, Meter, Profile
from unet_flax import tune_cpu


def main(argv: list[str]) -> None:
    tune_cpu()
    with cli.one_line_errors():
        recipe, run_dir, is_dry, profile_steps, told = cli.parse_train(argv)
        hosts.start(*told)
        mesh = recipe.mesh.make()
        sharding.check_batch_size(mesh, recipe.data.batch_size, recipe.run.accumulate)
        if is_dry:
            return hosts.say(*cost.lines(recipe, mesh), sep="\n")
        if recipe.run.tracker is not None:
            tracker.check(recipe.run.tracker)
        compiled.keep()
        dataset = recipe.data.load()
        build.check_fit(recipe, dataset)
        build.claim(run_dir, recipe)
        network, state = build.start(recipe, run_dir, mesh)
    with cli.one_line_errors(OSError), Profile(run_dir, profile_steps) as profile:
        train(recipe, run_dir, mesh, dataset, network, state, profile)


def train(
    recipe: Recipe,
    run_dir: Path,
    mesh: jax.sharding.Mesh,
    dataset: ImageArrays,
    network: Network,
    state: dm.TrainState,
    profile: Profile | None = None,
) -> None:
    """Trains from state.step to run.num_steps, and writes the run's folder.

    Raises:
      FloatingPointError: the weights are not finite, or too many steps in a row were not; names the
        last checkpoint.
    """
    run, batch_size, first = recipe.run, dataset.batch_size, int(state.step)
    began = time.perf_counter()
    train_step, key = build.train_step(recipe, network)
    num_parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    hosts.say(f"{run_dir}: {num_parameters:,} parameters, steps {first} to {run.num_steps}")
    with (
        cli.stop_requests() as stop_request,
        closing(build.journal(recipe, run_dir, first)) as journal,
        closing(build.checkpoints(recipe, run_dir)) as checkpoints,
        closing(build.feed(recipe, dataset, mesh, train_step, key, first)) as feed,
        tqdm(
            total=run.num_steps * batch_size,
            initial=first * batch_size,
            unit="img",
            unit_scale=True,
            disable=None if hosts.is_main() else True,  # None: shown on a terminal only
        ) as bar,
    ):
        meter, step = Meter(batch_size, cost.peak_images_per_second(recipe, mesh)), first
        while step < run.num_steps:
            before, step = step, build.next_stop(run, step, is_new=step == first)
            if profile is not None:
                profile.before(before, step)
            state, metrics = feed.run(state, before, step)
            meter.add(metrics, step - before)
            bar.update((step - before) * batch_size)
            if before == first:
                jax.block_until_ready(metrics)
                meter.restart_clock()  # without the compilation
                bar.unpause()

            logs = step % run.log_every_steps == 0
            is_last = step == run.num_steps or hosts.any_says(stop_request() is not None, now=logs)
            saves = is_last or step % run.save_every_steps == 0
            draws = step % run.sample_every_steps == 0 and not is_last
            if saves or draws or logs:
                values = meter.read()
                if meter.is_lost or meter.skipped_in_a_row > run.max_skipped_steps:
                    checkpoints.wait()
                    raise FloatingPointError(diverged(run, run_dir, step, meter))
                journal.metrics(step, values)
                report(bar, step, run.num_steps, values)
            if saves:
                checkpoints.save(state)
            if draws:
                draw_grid(recipe, network, state, mesh, journal)
                meter.restart_clock()
            if is_last:
                break
        bar.close()
        if step < run.num_steps:
            checkpoints.wait()
            signal = stop_request() or "another host is stopped"
            saved = f"saved step {step} of {run.num_steps}; the same command goes on."
            return hosts.say(f"{signal}: {saved}")
        grid = run_dir / "samples" / f"{step}.png"
        if hosts.any_says(not grid.exists()):
            draw_grid(recipe, network, state, mesh, journal)
    hosts.say(f"{step - first} steps in {time.perf_counter() - began:.0f} s; samples: {grid}")


def draw_grid(
    recipe: Recipe,
    network: Network,
    state: dm.TrainState,
    mesh: jax.sharding.Mesh,
    journal: Journal,
) -> None:
    """Draws samples for the journal, or says in a line that they are not finite."""
    step = int(state.step)
    average = recipe.ema.choose(state.ema, recipe.ema.names[0])
    trained = Trained.of_recipe(recipe, network, average, mesh, f"step {step}")
    labels = request.labels(trained, None, recipe.run.num_samples)
    try:
        journal.samples(step, images.grid(sample.draw(trained, labels, seed=0)))
    except FloatingPointError as error:
        hosts.say(f"step {step}: no grid, for {error}")


def report(bar: tqdm, step: int, num_steps: int, values: dict[str, float]) -> None:
    """Shows the loss in the progress bar, or in a plain line where there is no terminal."""
    loss = f"{values['loss']:.4f}" if "loss" in values else "not finite"
    bar.set_postfix(loss=loss)
    if bar.disable:
        speed = f"{values['images_per_second']:.0f} img/s" if "images_per_second" in values else ""
        hosts.say(f"step {step}/{num_steps}  loss {loss}  {speed}")


def diverged(run: Run, run_dir: Path, step: int, meter: Meter) -> str:
    saved = checkpoint.steps(run_dir)
    last = run_dir / "checkpoints" / str(saved[-1]) if saved else "none yet"
    what = (
        f"weights are not finite after step {step}"
        if meter.is_lost
        else f"loss or gradient was not finite in {meter.skipped_in_a_row} steps in a row, up to "
        f"step {step}"
    )
    return (
        f"{what} (seed {run.seed}); last checkpoint: {last}. A lower --optimizer.learning-rate may "
        "help."
    )


if __name__ == "__main__":
    main(sys.argv[1:])
