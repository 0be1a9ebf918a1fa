"""Compilation time, and time from a command to its first step: `python -m benchmarks.compile`.

Measures the training step of a network (tracing, lowering and compiling), and `train.py RECIPE`
from the command to the end of its first step. Each measurement is a process of its own, and is made
twice: with an empty compilation cache (cold), and with the cache that the first one wrote (warm).
"""

import argparse
import dataclasses
import os
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks import timing

STEP = """
import sys, time
import jax
import configs, unet_flax
from commands import build, cost
unet_flax.tune_cpu()
recipe = configs.load(sys.argv[1])
network, _ = build.abstract_network(recipe)
step, key = build.train_step(recipe, network)
_, state = cost.flops_of_step(recipe)
jax.clear_caches()
began = time.perf_counter()
step.lower(state, cost.batch_shapes(recipe), key).compile()
print("seconds", time.perf_counter() - began)
"""


@dataclasses.dataclass(frozen=True)
class Start:
    """Seconds with an empty and with a filled compilation cache."""

    what: str
    cold_seconds: float
    warm_seconds: float


def compile_step(recipe: str, cache: str) -> float:
    done = subprocess.run(
        [sys.executable, "-c", STEP, recipe],
        env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return float(done.stdout.split("seconds")[1])


def first_step(recipe: str, cache: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        argv = ["train.py", recipe, "--run-dir", folder, "--run.log-every-steps", "1"]
        began = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-u", *argv],
            env=os.environ | {"JAX_COMPILATION_CACHE_DIR": cache},
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("step 1/"):
                    seconds = time.perf_counter() - began
                    process.kill()
                    return seconds
    raise RuntimeError(f"train.py {recipe}: status {process.returncode} before its first step.")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--recipes", nargs="+", default=["cifar10_ddpm"], help="recipes whose step is compiled"
    )
    parser.add_argument(
        "--start", nargs="+", default=["digits"], help="recipes that are started with train.py"
    )
    parser.add_argument("--rounds", type=timing.count, default=3)
    parser.add_argument("--json", type=timing.json_file, metavar="FILE")
    args = parser.parse_args()
    rows = []
    for names, what, measure in (
        (args.recipes, "training step of {}", compile_step),
        (args.start, "train.py {} to its first step", first_step),
    ):
        for name in names:
            pairs = []
            for _ in range(args.rounds):
                with tempfile.TemporaryDirectory() as cache:
                    pairs.append((measure(name, cache), measure(name, cache)))
            cold, warm = np.median(pairs, axis=0).tolist()
            rows.append(row := Start(what.format(name), cold, warm))
            print(f"{row.what:36} cold {cold:6.1f} s  warm {warm:6.1f} s  ratio {warm / cold:.2f}")
    if args.json:
        timing.write_json(args.json, "compile", rows)


if __name__ == "__main__":
    main()
