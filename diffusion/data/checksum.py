"""Checksums of data: a run that resumes must draw the same batches."""

import zlib
from collections.abc import Mapping

import numpy as np
from jaxtyping import Shaped

CHUNK_BYTES = 2**24


def of_array(values: Shaped[np.ndarray, "N ..."], before: int = 0) -> int:
    """CRC-32 of an array's bytes in row-major order.

    Args:
      before: the checksum of what lies before it, if the array is the next part of a larger one.
    """
    row_bytes = max(1, values[:1].nbytes)
    rows = max(1, CHUNK_BYTES // row_bytes)  # few at a time: the array may be larger than memory
    for first in range(0, len(values), rows):
        before = zlib.crc32(np.ascontiguousarray(values[first : first + rows]).data, before)
    return before


def of_examples(pixels: int, others: Mapping[str, np.ndarray]) -> int:
    """CRC-32 of a dataset.

    Args:
      pixels: the checksum of its pixels.
      others: labels and conditions by name.
    """
    parts = [(name, values.dtype.str, of_array(values)) for name, values in sorted(others.items())]
    return zlib.crc32(repr((pixels, parts)).encode())
