"""Speed of EfficientNet-Lite0's features, in images per second: `python -m benchmarks.features`.

From random pixels of 32x32 in memory to features on the device, with the resize to 224x224. Other
programs on the machine disturb it: the median and the fastest call are both given.
"""

import argparse
import dataclasses
import time

import jax
import numpy as np

import unet_flax
from benchmarks import timing
from diffusion.metrics import efficientnet_lite
from unet_flax.diffusers.torch_file import read_torch_file


@dataclasses.dataclass(frozen=True)
class Speed:
    network: str
    batch_size: int
    images_per_second: float
    fastest: float
    compile_seconds: float


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--batch-size", type=timing.count, default=32)
    parser.add_argument("--rounds", type=timing.count, default=10)
    parser.add_argument("--json", type=timing.json_file, metavar="FILE")
    args = parser.parse_args()
    unet_flax.tune_cpu()  # as the commands do
    params = jax.device_put(read_torch_file(efficientnet_lite.weights_file()))
    shape = (args.batch_size, 32, 32, 3)
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    seconds = []
    for _ in range(args.rounds + 1):
        began = time.perf_counter()
        jax.block_until_ready(efficientnet_lite.efficientnet_lite0(params, pixels))
        seconds.append(time.perf_counter() - began)
    first, *seconds = seconds
    median, fastest = args.batch_size / np.median(seconds), args.batch_size / min(seconds)
    row = Speed("EfficientNet-Lite0", args.batch_size, float(median), float(fastest), first)
    print(
        f"{row.network:20} batch {row.batch_size:<5} {median:9.1f} img/s (fastest {fastest:.1f})   "
        f"{first:.1f} s to compile"
    )
    if args.json is not None:
        timing.write_json(args.json, "features", [row])


if __name__ == "__main__":
    main()
