"""Overhead of train.py's loop over the bare jitted step: `python -m benchmarks.loop [RECIPE ...]`.

The bare step runs on one batch that stays on the device. The loop is train.py itself, with data,
transfer, progress bar, logs and checkpoints. It takes as many steps as the recipe has between two
checkpoints, and saves one checkpoint in the middle; the one at the end is not timed. Loop and bare
step alternate in one process. Each pair gives one ratio of images per second: that of the loop over
the mean of the bare runs before and after it.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import jax
import numpy as np

import train
import unet_flax
from benchmarks import timing
from commands import build, train_request
from diffusion import sharding


@dataclasses.dataclass(frozen=True)
class Pair:
    """A run of the loop, and the mean of the bare runs before and after it."""

    recipe: str
    loop_images_per_second: float
    bare_images_per_second: float
    ratio: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "recipe", nargs="*", default=["digits"], help="a recipe, and options of train.py"
    )
    parser.add_argument("--pairs", type=timing.count, default=3)
    parser.add_argument("--json", type=timing.json_file, metavar="FILE")
    args, fields = parser.parse_known_args()
    unet_flax.tune_cpu()  # as train.main does
    recipe = train_request.parse([*args.recipe, *fields]).recipe
    steps = recipe.run.save_every_steps
    run = dataclasses.replace(
        recipe.run,
        num_steps=steps,
        save_every_steps=steps // 2,
        sample_every_steps=10 * steps,
        num_samples=1,
    )
    recipe = dataclasses.replace(recipe, run=run)
    mesh = recipe.mesh.make()

    with tempfile.TemporaryDirectory() as folder:
        job = build.job(recipe, Path(folder), mesh)
        batch = sharding.shard_batch(mesh, job.dataset.batch(0, 0))
        state = build.start(job)
        train_step, key = job.train_step, job.key
        state, _ = train_step(state, batch, key)  # compiles

        def bare() -> float:
            nonlocal state
            jax.block_until_ready(state)
            since = time.perf_counter()
            for _ in range(steps):
                state, _ = train_step(state, batch, key)
            jax.block_until_ready(state)
            return steps * job.dataset.batch_size / (time.perf_counter() - since)

        def loop(run_dir: Path) -> float:
            run_dir.mkdir()
            looped = dataclasses.replace(job, run_dir=run_dir)
            train.train(looped, build.start(looped))
            lines = (run_dir / "metrics.jsonl").read_text().splitlines()
            seconds_per_image = [1 / json.loads(line)["images_per_second"] for line in lines]
            return 1 / float(np.mean(seconds_per_image))

        made, before = [], bare()
        for pair in range(args.pairs):
            looped = loop(Path(folder) / str(pair))
            after = bare()
            mean = (before + after) / 2
            made.append(Pair(" ".join([*args.recipe, *fields]), looped, mean, looped / mean))
            print(f"bare {before:.0f}, loop {looped:.0f}, bare {after:.0f} img/s", flush=True)
            before = after
    ratios = [pair.ratio for pair in made]
    print(f"loop / bare: median {np.median(ratios):.3f}, {min(ratios):.3f} to {max(ratios):.3f}")
    if args.json:
        timing.write_json(args.json, "loop", made)


if __name__ == "__main__":
    main()
