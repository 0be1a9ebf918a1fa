"""LPIPS for the training of autoencoders, by the files of its weights."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import safetensors.numpy

from diffusion.metrics import lpips
from diffusion.training.reconstruction import Perceptual
from unet_flax.diffusers.torch_file import read_torch_file


def read(files: Sequence[str]) -> Perceptual | None:
    """LPIPS of these files, `.pth` of torch.save or `.safetensors`; None where there are none.

    Raises:
      OSError: there is no such file.
      ValueError: it is damaged, or together they are not LPIPS.
    """
    if not files:
        return None
    params: dict[str, Any] = {}
    for name in files:
        path = Path(name).expanduser()
        is_safe = path.suffix == ".safetensors"
        params |= safetensors.numpy.load(path.read_bytes()) if is_safe else read_torch_file(path)
    if "features.0.weight" not in params:
        raise ValueError(f"{', '.join(files)}: they hold no weights of {lpips.FILE}.")
    lpips.check(params)
    used = {name: value for name, value in params.items() if not name.startswith("classifier.")}
    return partial(lpips.lpips, used)
