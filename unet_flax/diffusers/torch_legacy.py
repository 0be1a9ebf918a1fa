"""Reads files that torch.save wrote before PyTorch 1.6, or writes without ZIP.

Such a file is a row of five pickle programs, then bytes: a magic number, the format's number, facts
of the machine, the object itself, the keys of its storages; and for each key the number of values
(int64) and the values. torch_program follows the programs as data.

Source: PyTorch 2.13, torch/serialization.py, _legacy_load and _legacy_save.
"""

import io
import os

import numpy as np

from unet_flax.diffusers.torch_program import Storage, Tensor, follow, read_state_dict

MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The program of the number 0x1950a86a20f9469cfc6c, by which such a file begins."""
FORMAT = 1001


def read_legacy(file: io.BufferedReader) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    """The tensors that the file describes, and its storages by their keys.

    Raises:
      ValueError: the file is cut off, of another machine's byte order, or its program does
        anything but describe tensors.
    """
    follow(file)  # the magic number
    if (number := follow(file)) != FORMAT:
        raise ValueError(f"its format is {number!r} in place of {FORMAT}")
    if follow(file).get("little_endian") is not True:
        raise ValueError("its bytes are not in little-endian order")
    tensors = read_state_dict(file)
    described = {tensor.storage.key: tensor.storage for tensor in tensors.values()}
    storages = {}
    for key in follow(file):
        if key not in described:
            raise ValueError(f"storage {key!r} belongs to no tensor")
        storages[key] = _next_values(file, described[key])
    return tensors, storages


def _next_values(file: io.BufferedReader, storage: Storage) -> np.ndarray:
    size = int.from_bytes(_read(file, 8), "little", signed=True)
    if size != storage.size:
        raise ValueError(f"storage {storage.key} has {size} values in place of {storage.size}")
    return np.frombuffer(_read(file, size * storage.dtype.itemsize), storage.dtype)


def _read(file: io.BufferedReader, length: int) -> bytes:
    if length > os.stat(file.fileno()).st_size - file.tell():
        raise ValueError("it is cut off")
    return file.read(length)
