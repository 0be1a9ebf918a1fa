"""Trains a diffusion U-Net, or an autoencoder for its latents.

    python train.py RECIPE [--section.field VALUE ...] [--run-dir DIR]

Without arguments, lists the recipes; `RECIPE --help` lists every field. If the folder holds a
checkpoint, training resumes from it, bit for bit as if it had not been interrupted.
"""

import dataclasses
import signal
import sys
import time
from contextlib import ExitStack, closing

import jax

import diffusion as dm
from commands import build, cost, judge, kinds, train_request
from commands.build import Job
from commands.judge import Judge
from diffusion import sharding
from diffusion.data import images
from diffusion.run import checkpoint, compilation_cache, hosts, lock, signals, tracker
from diffusion.run.meter import Meter
from diffusion.run.profile import Profile
from diffusion.run.progress import Progress
from unet_flax import tune_cpu


def main(argv: list[str]) -> None:
    tune_cpu()
    with ExitStack() as stack:
        with train_request.one_line_errors(ValueError, OSError):
            request = train_request.parse(argv)
            recipe, run_dir = request.recipe, request.run_dir
            hosts.start(*dataclasses.astuple(request.hosts))
            mesh = recipe.mesh.make()
            recipe.check_grid()
            sharding.check_batch_size(mesh, recipe.data.batch_size, recipe.run.accumulate)
            if request.is_dry:
                return hosts.print_on_main(*cost.lines(recipe, mesh), sep="\n")
            tracker.check(recipe.run.tracker)
            compilation_cache.enable()
            job = build.job(recipe, run_dir, mesh, request.profile_steps)
            if hosts.is_main():
                stack.enter_context(lock.held(run_dir))
            build.claim(run_dir, recipe, job.dataset, job.latents)
            state, measured_by = build.start(job), judge.of_job(job)
        with train_request.one_line_errors(tracker.TrackerError, OSError):
            train(job, state, measured_by)


def train(job: Job, state: dm.TrainState, measured_by: Judge | None = None) -> None:
    """Trains from state.step to run.num_steps, and writes to the run's folder.

    Raises:
      FloatingPointError: the weights are not finite, or too many steps were skipped; the message
        names the last checkpoint.
      SaveError: a checkpoint or a log file cannot be written.
      SystemExit: a signal requested a stop, and a checkpoint was saved; the exit status is 128 plus
        the signal's number.
    """
    run, run_dir, batch_size = job.recipe.run, job.run_dir, job.dataset.batch_size
    first, start_time = int(state.step), time.perf_counter()
    with (
        signals.stop_requests() as stop_request,
        closing(Profile(run_dir, job.profile_steps)) as profile,
        closing(build.journal(job, first)) as journal,
        closing(build.checkpoints(job)) as checkpoints,
        closing(build.feed(job, first)) as feed,
        closing(Progress(run.num_steps, first, batch_size)) as progress,
    ):
        num_parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
        hosts.print_on_main(
            f"{run_dir}: {num_parameters:,} parameters, steps {first} to {run.num_steps}"
        )
        if not images.can_be_png(shape := build.image_shape(job.recipe)):
            hosts.print_on_main(f"no grids of samples: images of shape {shape} cannot be PNG files")
        peak = cost.peak_images_per_second(job.recipe, job.mesh)
        meter = Meter(batch_size, run.max_skipped_steps, peak)
        kinds.draw_due(job, journal, state)  # missing if the run was stopped before it was drawn
        judge.measure_due(measured_by, journal, state)
        stop, step, is_stopped = hosts.StopAgreement(first), first, False
        while step < run.num_steps and not is_stopped:
            before, is_new = step, step == first
            step = build.next_stop(run, step, feed.steps_per_dispatch, is_new=is_new)
            profile.before(before, step, state)
            state, metrics = feed.run(state, before, step)
            meter.add(metrics)
            progress.advance(step - before)
            if is_new:
                jax.block_until_ready(metrics)
                meter.restart_clock()  # the speed must not include the compilation

            logs, is_last = step % run.log_every_steps == 0, step == run.num_steps
            is_stopped = not is_last and stop.reached(step, stop_request, metrics)
            measures = judge.is_due(run, step) and not is_stopped
            saves = is_last or is_stopped or measures or step % run.save_every_steps == 0
            draws = build.is_grid_due(run, step) and not is_stopped
            if saves or draws or logs:
                values = meter.read()
                if meter.fault:
                    checkpoints.wait()
                    raise FloatingPointError(
                        f"{meter.fault}, up to step {step} (seed {run.seed}); "
                        f"{checkpoint.describe_last(run_dir)}. "
                        "A lower --optimizer.learning-rate may help."
                    )
                journal.metrics(step, values)
                progress.report(step, values)
            if saves:
                checkpoints.save(state)
                kinds.save(job, state)
            if draws or measures:
                kinds.draw_due(job, journal, state)
                judge.measure_due(measured_by, journal, state)
                meter.restart_clock()
        checkpoints.wait()
        received = stop_request()
    if step < run.num_steps:
        reason = received.name if received else "another host received a signal"
        hosts.print_on_main(
            f"{reason}: saved step {step} of {run.num_steps}; run the same command to resume."
        )
        sys.exit(128 + (received or signal.SIGTERM))
    seconds, grid = time.perf_counter() - start_time, run_dir / "samples" / f"{step}.png"
    drawn = f"; samples: {grid}" if images.can_be_png(build.image_shape(job.recipe)) else ""
    hosts.print_on_main(f"{step - first} steps in {seconds:.0f} s{drawn}")


if __name__ == "__main__":
    main(sys.argv[1:])
