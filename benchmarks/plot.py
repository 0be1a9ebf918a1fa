"""Plots images per second over batch size: `python -m benchmarks.plot PICTURE.png JSON ...`.

The JSON files come from `benchmarks.forward`, `train_step` or `sampling` with several values of
`--batch-size`. Each network has a panel, and each side (ours, PyTorch) a line.
"""

import argparse
import json
from pathlib import Path

import matplotlib.pyplot as plt
from matplotlib.axes import Axes


def draw(axis: Axes, title: str, rows: list[dict]) -> None:
    batches = sorted({row["images"] for row in rows})
    for side in dict.fromkeys(row["side"] for row in rows):
        line = sorted(
            (row["images"], row["images_per_second"]) for row in rows if row["side"] == side
        )
        axis.plot(*zip(*line, strict=True), marker="o", label=side)
    axis.set_xscale("log", base=2)
    axis.set_xticks(batches, labels=map(str, batches))
    axis.set(title=title, xlabel="batch", ylabel="images a second")
    axis.set_ylim(bottom=0)
    axis.grid(alpha=0.3)
    axis.legend()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("picture", type=Path)
    parser.add_argument("json", type=Path, nargs="+")
    args = parser.parse_args()
    panels: dict[str, list[dict]] = {}
    for path in args.json:
        record = json.loads(path.read_text())
        for row in record["rows"]:
            title = f"{record['benchmark']}, {row['case']}\n{record['device']}"
            panels.setdefault(title, []).append(row)
    figure, axes = plt.subplots(
        1, len(panels), figsize=(6 * len(panels), 4.5), layout="constrained", squeeze=False
    )
    for axis, (title, rows) in zip(axes[0], panels.items(), strict=True):
        draw(axis, title, rows)
    figure.savefig(args.picture, dpi=100)
    print(args.picture)


if __name__ == "__main__":
    main()
