"""A file of a network's weights, as other libraries write it."""

from pathlib import Path
from typing import Any

import safetensors.numpy

from unet_flax.diffusers.torch_file import read_torch_file


def read(path: Path) -> dict[str, Any]:
    """The arrays by name, of a .safetensors or of a file of torch.save, of which nothing is run.

    Raises:
      OSError: there is no such file.
      ValueError: it is damaged.
    """
    if path.suffix != ".safetensors":
        return read_torch_file(path)
    try:
        return safetensors.numpy.load(path.read_bytes())
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
