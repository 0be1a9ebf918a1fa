"""Seconds of the measures on features of Inception's width: `python -m benchmarks.metrics`.

Features are random, float32, of width 2,048. Measured are gathering their statistics by batches of
several sizes, and from features or statistics to FID, KID, precision and recall.
"""

import argparse
import dataclasses
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks import timing
from diffusion import metrics
from diffusion.metrics import FeatureStatistics

WIDTH = 2048


@dataclasses.dataclass(frozen=True)
class Seconds:
    what: str
    num_images: int
    seconds: float


def gathered(features: np.ndarray, batch_size: int) -> FeatureStatistics:
    places = range(0, len(features), batch_size)
    return FeatureStatistics.of_batches(features[i : i + batch_size] for i in places)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--num-images", type=timing.count, default=10_000)
    parser.add_argument("--batch-sizes", type=timing.count, nargs="*", default=[64, 1000])
    parser.add_argument("--rounds", type=timing.count, default=3)
    parser.add_argument("--json", type=timing.json_file, metavar="FILE")
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    generated, real = rng.standard_normal((2, args.num_images, WIDTH), np.float32)
    a, b = map(FeatureStatistics.of, (generated, real))
    calls: dict[str, Callable[[], Any]] = {
        **{
            f"statistics, batches of {size}": lambda size=size: gathered(generated, size)
            for size in args.batch_sizes
        },
        "FID of statistics": lambda: metrics.frechet_distance(a, b),
        "KID": lambda: metrics.kernel_inception_distance(generated, real),
        "precision and recall": lambda: metrics.precision_recall(generated, real),
    }
    rows = []
    for what, call in calls.items():
        for _ in range(args.rounds):
            began = time.perf_counter()
            call()
            rows.append(Seconds(what, args.num_images, time.perf_counter() - began))
        shown = " ".join(f"{row.seconds:8.2f}" for row in rows[-args.rounds :])
        print(f"{what:28} {shown} s", flush=True)
    if args.json:
        timing.write_json(args.json, "metrics", rows)


if __name__ == "__main__":
    main()
