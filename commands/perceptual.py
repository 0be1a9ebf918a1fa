"""LPIPS for the training of autoencoders, by the files of its weights."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from commands import weight_file
from diffusion.metrics import lpips
from diffusion.training.reconstruction import Perceptual


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
        params |= weight_file.read(Path(name).expanduser())
    if "features.0.weight" not in params:
        raise ValueError(f"{', '.join(files)}: they hold no weights of {lpips.FILE}.")
    lpips.check(params)
    used = {name: value for name, value in params.items() if not name.startswith("classifier.")}
    return partial(lpips.lpips, used)
