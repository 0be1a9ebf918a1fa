"""Weights as one safetensors file, for other programs to read."""

from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np

from diffusion.optional import from_extra

with from_extra("train"):
    import safetensors.flax


def save(path: Path, params: Any, metadata: dict[str, str]) -> None:
    """Writes a nested dict of arrays atomically.

    An array's name is its path joined by dots, such as "encoder.0.0.res_block.conv_in.kernel".

    Args:
      path: the file to write.
      params: nested dict of arrays.
      metadata: strings to store with the arrays.
    """
    unfinished = path.with_name(f".{path.name}")
    name = partial(jax.tree_util.keystr, simple=True, separator=".")
    arrays: Any = {
        name(keys): np.asarray(leaf, order="C") for keys, leaf in jax.tree.leaves_with_path(params)
    }
    safetensors.flax.save_file(arrays, str(unfinished), metadata)
    unfinished.replace(path)
