"""What surrounds a training run: checkpoints, logs, hosts, signals, devices.

Needs the extra `train`, and Linux or macOS.
"""

import sys

if sys.platform == "win32":
    raise ImportError(
        "diffusion.run, train.py and sample.py need Linux or macOS; on Windows use WSL. unet_flax, "
        "diffusion and diffusion.data run on Windows too."
    )
