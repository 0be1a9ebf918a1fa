"""Inception weights from a seed, the same in every version of NumPy, in place of the published."""

import zlib

import numpy as np


def drawn_weight(name, shape):
    """An array by its name in the published file and its shape, sized so that features vary."""
    values = np.random.RandomState(zlib.crc32(name.encode())).uniform(-1, 1, shape)
    if len(shape) > 1:
        # what all images share is taken out, as normalisation does in a trained network
        values -= values.mean(tuple(range(1, len(shape))), keepdims=True)
        values *= np.sqrt((300 if name == "fc.weight" else 9) / np.prod(shape[1:]))
    elif name.endswith(("bn.weight", "running_var")):
        values = 1 + 0.2 * values
    else:
        values *= 0.1
    return values.astype(np.float32)
