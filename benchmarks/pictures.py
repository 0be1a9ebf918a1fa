"""How fast a folder of pictures is opened, the first time and again.

    python -m benchmarks.pictures --num-images 100000 --size 32
    python -m benchmarks.pictures --num-images 2000 --size 256 --kind jpeg

Writes the folder (random smooth pictures), reads it with an empty cache, and once more.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from diffusion.data import Pictures


def write(folder: Path, num_images: int, size: int, kind: str) -> None:
    rng = np.random.default_rng(0)
    for index in range(num_images):
        small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), np.uint8))
        sub = folder / f"{index // 1000:03d}"
        sub.mkdir(exist_ok=True)
        small.resize((size, size), Image.Resampling.BICUBIC).save(sub / f"{index:06d}.{kind}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--num-images", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=32, help="of the pictures, and of the images")
    parser.add_argument("--kind", default="png", choices=["png", "jpeg", "webp"])
    parser.add_argument("--num-workers", type=int, default=None)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "pictures"
        folder.mkdir()
        write(folder, args.num_images, args.size, args.kind)
        data = Pictures(
            path=str(folder),
            image_size=args.size,
            cache_dir=f"{place}/cache",
            num_workers=args.num_workers,
        )
        for name in ("first", "again"):
            start = time.perf_counter()
            dataset = data.load()
            seconds = time.perf_counter() - start
            print(f"{name:6} {seconds:6.1f} s  {args.num_images / seconds:9.0f} images/s")
        start, steps = time.perf_counter(), 50
        for step in range(steps):
            dataset.batch(0, step)
        seconds = time.perf_counter() - start
        print(f"batches {steps * data.batch_size / seconds:9.0f} images/s")


if __name__ == "__main__":
    main()
