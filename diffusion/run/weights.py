"""Weights as one safetensors file, which other tools and languages read."""

from pathlib import Path
from typing import Any

import numpy as np
import safetensors.flax

SEPARATOR = "."


def save(path: Path, params: Any, metadata: dict[str, str]) -> None:
    """Writes a nested dict of arrays, whole or not at all.

    Each array has the names of its path, joined by dots, as "encoder.0.0.res_block.conv_in.kernel".

    Args:
      metadata: texts to store beside the arrays.
    """
    unfinished = path.with_name(f".{path.name}")
    arrays: Any = {name: np.asarray(leaf) for name, leaf in _flatten(params)}
    safetensors.flax.save_file(arrays, str(unfinished), metadata)
    unfinished.replace(path)


def _flatten(node: Any, prefix: str = "") -> Any:
    for key, child in node.items():
        name = f"{prefix}{key}"
        if isinstance(child, dict):
            yield from _flatten(child, name + SEPARATOR)
        else:
            yield name, child
