"""Weights as one safetensors file, for other programs to read."""

from pathlib import Path
from typing import Any

import numpy as np
import safetensors.flax

SEPARATOR = "."


def save(path: Path, params: Any, metadata: dict[str, str]) -> None:
    """Writes a nested dict of arrays atomically.

    An array's name is its path joined by dots, such as "encoder.0.0.res_block.conv_in.kernel".

    Args:
      path: the file to write.
      params: nested dict of arrays.
      metadata: strings to store with the arrays.
    """
    unfinished = path.with_name(f".{path.name}")
    arrays: Any = {name: np.asarray(leaf, order="C") for name, leaf in _flatten(params)}
    safetensors.flax.save_file(arrays, str(unfinished), metadata)
    unfinished.replace(path)


def _flatten(node: Any, prefix: str = "") -> Any:
    for key, child in node.items():
        name = f"{prefix}{key}"
        if isinstance(child, dict):
            yield from _flatten(child, name + SEPARATOR)
        else:
            yield name, child
