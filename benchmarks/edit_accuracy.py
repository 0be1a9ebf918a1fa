"""How well a network edits held-out images: `python -m benchmarks.edit_accuracy RUN [--seed 0]`.

Draws held-out edits, each once, and prints for each kind

    changed  the root mean square error on the pixels that the edit changes, divided by that of the
             image as it was: 0 is the true result, 1 no edit at all
    kept     the root mean square error on the pixels that should stay, of values in [-1, 1]

Writes a picture of some edits to RUN/edits.png: the image, the sample, the truth.
"""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from commands import grids, pipeline
from diffusion import Heun
from diffusion.data import images
from diffusion.pixels import from_pixels


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--num-steps", type=int, default=10)
    parser.add_argument("--most", type=int, default=320, help="edits of a kind at most (320)")
    parser.add_argument("--cells", type=int, default=60, help="edits in the picture (60)")
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--image-guidance", type=float, default=1.0)
    args = parser.parse_args()

    trained = pipeline.read(args.run_dir)
    sampling = dataclasses.replace(
        trained.sampling,
        sampler=Heun(),
        num_steps=args.num_steps,
        guidance=args.guidance,
        image_guidance=args.image_guidance,
    )
    trained = dataclasses.replace(trained, sampling=sampling)
    assert trained.data is not None
    held_out: Any = trained.data.held_out.load()  # pyright: ignore[reportAttributeAccessIssue]
    print(f"{trained.name}, {args.num_steps} Heun steps: error on held-out edits")
    print(f"{'':12s}{'edits':>6s}{'changed':>10s}{'kept':>8s}")
    for kind, every in held_out.mixture.groups.items():
        index = every[:: max(1, -(-len(every) // args.most))]  # evenly, over all people and roles
        drawn = from_pixels(grids.of_rows(trained, held_out, index, seed=args.seed))
        changed, kept = errors(held_out.rows(index), drawn)
        print(f"{kind:12s}{len(index):6d}{changed:10.3f}{kept:8.3f}")
    sheet = grids.of_examples(trained, held_out, held_out.first(args.cells), seed=args.seed)
    images.save_png(args.run_dir / "edits.png", sheet)
    print(f"some of them: {args.run_dir / 'edits.png'}")


def errors(rows: dict[str, np.ndarray], drawn: np.ndarray) -> tuple[float, float]:
    """(changed, kept), see above.

    Args:
      rows: the examples.
      drawn: samples in [-1, 1].
    """
    before, after = rows["condition"], rows["image"]
    changes = (before != after).any(-1)
    error, left = np.square(drawn - after), np.square(before - after)
    share = np.sqrt(error[changes].mean() / left[changes].mean())
    return float(share), float(np.sqrt(error[~changes].mean()))


if __name__ == "__main__":
    main()
