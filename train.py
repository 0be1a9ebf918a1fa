"""Trains a diffusion U-Net: `python train.py RECIPE [--section.field VALUE ...] [--run-dir DIR]`.

Without arguments lists the recipes; `RECIPE --help` lists every field. A folder that holds a
checkpoint is resumed, bit for bit as if it had never stopped.
"""

import signal
import sys
import time
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import jax

import diffusion as dm
import sample
from commands import build, cli, cost, request
from commands.pipeline import Trained
from configs import Recipe
from diffusion import sharding
from diffusion.data import ImageArrays, images
from diffusion.denoiser import Network
from diffusion.run import checkpoint, hosts, lock, signals, tracker
from diffusion.run import compilation_cache as compiled
from diffusion.run.journal import Journal
from diffusion.run.meter import Meter
from diffusion.run.profile import Profile
from diffusion.run.progress import Progress
from unet_flax import tune_cpu


def main(argv: list[str]) -> None:
    tune_cpu()
    with ExitStack() as claimed:
        with cli.one_line_errors(ValueError, OSError):
            recipe, run_dir, is_dry, profile_steps, told = cli.parse_train(argv)
            hosts.start(*told)
            mesh = recipe.mesh.make()
            sharding.check_batch_size(mesh, recipe.data.batch_size, recipe.run.accumulate)
            if is_dry:
                return hosts.say(*cost.lines(recipe, mesh), sep="\n")
            tracker.check(recipe.run.tracker)
            compiled.keep()
            dataset = recipe.data.load()
            build.check_fit(recipe, dataset)
            if hosts.is_main():
                claimed.enter_context(lock.held(run_dir))
            build.claim(run_dir, recipe)
            network, state = build.start(recipe, run_dir, mesh)
        with cli.one_line_errors(tracker.Refused, OSError):
            train(recipe, run_dir, mesh, dataset, network, state, profile_steps)


def train(
    recipe: Recipe,
    run_dir: Path,
    mesh: jax.sharding.Mesh,
    dataset: ImageArrays,
    network: Network,
    state: dm.TrainState,
    profile_steps: tuple[int, int] | None = None,
) -> None:
    """Trains from state.step to run.num_steps, and writes the run's folder.

    Raises:
      FloatingPointError: weights, or too many steps, are not finite; names the last checkpoint.
      SaveError: a checkpoint or a record cannot be written.
      SystemExit: asked to stop by a signal, after saving; with 128 + its number, as shells do.
    """
    run, batch_size, first = recipe.run, dataset.batch_size, int(state.step)
    began = time.perf_counter()
    train_step, key = build.train_step(recipe, network)
    with (
        signals.stop_requests() as stop_request,
        closing(Profile(run_dir, profile_steps)) as profile,
        closing(build.journal(recipe, run_dir, first)) as journal,
        closing(build.checkpoints(recipe, run_dir)) as checkpoints,
        closing(build.feed(recipe, dataset, mesh, train_step, key, first)) as feed,
        closing(Progress(run.num_steps, first, batch_size)) as progress,
    ):
        num_parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        hosts.say(f"{run_dir}: {num_parameters:,} parameters, steps {first} to {run.num_steps}")
        meter = Meter(batch_size, run.max_skipped_steps, cost.peak_images_per_second(recipe, mesh))
        draw = partial(draw_due_grid, recipe, run_dir, network, mesh, journal)
        draw(state)  # where an earlier part of the run ended before it had
        stop, step, is_stopped = hosts.StopAgreement(first), first, False
        while step < run.num_steps and not is_stopped:
            before, step = step, build.next_stop(run, step, feed.steps, is_new=step == first)
            profile.before(before, step, state)
            state, metrics = feed.run(state, before, step)
            meter.add(metrics)
            progress.advance(step - before)
            if before == first:
                jax.block_until_ready(metrics)
                meter.restart_clock()  # without the compilation
                progress.restart_clock()

            logs, is_last = step % run.log_every_steps == 0, step == run.num_steps
            is_stopped = not is_last and stop.reached(step, stop_request, metrics)
            saves = is_last or is_stopped or step % run.save_every_steps == 0
            draws = build.is_grid_due(run, step) and not is_stopped
            if saves or draws or logs:
                values = meter.read()
                if meter.fault:
                    checkpoints.wait()
                    raise FloatingPointError(
                        f"{meter.fault}, up to step {step} (seed {run.seed}); "
                        f"{checkpoint.last(run_dir)}. A lower --optimizer.learning-rate may help."
                    )
                journal.metrics(step, values)
                progress.report(step, values)
            if saves:
                checkpoints.save(state)
            if draws:
                draw(state)
                meter.restart_clock()
                progress.restart_clock()
        checkpoints.wait()
        asked = stop_request()
    if step < run.num_steps:
        who = asked.name if asked else "another host is stopped"
        hosts.say(f"{who}: saved step {step} of {run.num_steps}; the same command goes on.")
        sys.exit(128 + (asked or signal.SIGTERM))
    grid = run_dir / "samples" / f"{step}.png"
    hosts.say(f"{step - first} steps in {time.perf_counter() - began:.0f} s; samples: {grid}")


def draw_due_grid(
    recipe: Recipe,
    run_dir: Path,
    network: Network,
    mesh: jax.sharding.Mesh,
    journal: Journal,
    state: dm.TrainState,
) -> None:
    """Draws samples where they are due and missing; says if they are not finite."""
    step = int(state.step)
    is_missing = not (run_dir / "samples" / f"{step}.png").exists()
    if not build.is_grid_due(recipe.run, step) or not hosts.any_says(is_missing):
        return
    average = recipe.ema.choose(state.ema, recipe.ema.names[0])
    trained = Trained.of_recipe(recipe, network, average, mesh, f"step {step}")
    labels = request.labels(trained, None, recipe.run.num_samples)
    try:
        journal.samples(step, images.grid(sample.draw(trained, labels, seed=0)))
    except FloatingPointError as error:
        hosts.say(f"step {step}: no grid, for {error}")


if __name__ == "__main__":
    main(sys.argv[1:])
