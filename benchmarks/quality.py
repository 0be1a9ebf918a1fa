"""Plots Frechet distances over images seen: `python -m benchmarks.quality PICTURE.png RUN ...`.

The runs were trained with `--run.evaluate-every-steps`. The plot's points are printed as a table.
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt


def curve(run_dir: Path) -> list[tuple[int, float]]:
    """Images seen and Frechet distance at each measurement.

    Raises:
      ValueError: the run has measured nothing.
    """
    batch_size = json.loads((run_dir / "config.json").read_text())["data"]["batch_size"]
    lines = (run_dir / "metrics.jsonl").read_text().splitlines()
    records = [record for record in map(json.loads, lines) if "frechet_distance" in record]
    if not records:
        raise ValueError(f"{run_dir} has no measurements; train with --run.evaluate-every-steps.")
    return [(record["step"] * batch_size, record["frechet_distance"]) for record in records]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", type=Path)
    parser.add_argument("run", type=Path, nargs="+")
    args = parser.parse_args()
    figure, axis = plt.subplots(figsize=(6, 4), layout="constrained")
    for run_dir in args.run:
        points = curve(run_dir)
        axis.plot(*zip(*points, strict=True), marker="o", label=run_dir.name)
        for images, distance in points:
            print(f"{run_dir.name} {images:,} {distance:.2f}")
    axis.set(xlabel="images seen", ylabel="Frechet distance", yscale="log")
    axis.grid(alpha=0.3, which="both")
    axis.legend()
    figure.savefig(args.picture, dpi=100)


if __name__ == "__main__":
    main()
