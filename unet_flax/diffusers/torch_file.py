"""Reads tensors from a file of torch.save (`.bin`, `.pth`) without running anything in it.

Since PyTorch 1.6 such a file is a ZIP archive: `data.pkl`, a program for pickle that torch_program
follows as data, and the bytes of each storage. Earlier files are read by torch_legacy.

Source: PyTorch 2.13, torch/serialization.py.
"""

import io
import zipfile
import zlib
from pathlib import Path

import numpy as np

from unet_flax.diffusers.torch_legacy import MAGIC, read_legacy
from unet_flax.diffusers.torch_program import Tensor, read_state_dict

DAMAGE = (
    *(ValueError, TypeError, LookupError, AttributeError, ArithmeticError, AssertionError),
    *(MemoryError, EOFError, RuntimeError, NotImplementedError, zlib.error),
)
"""What reading a damaged program or archive raises; MemoryError where a length is damaged,
RuntimeError where it is encrypted."""


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """The arrays of a state dictionary by their names.

    Raises:
      ValueError: the file is damaged, or holds anything but a dictionary of tensors.
    """
    with open(path, "rb") as file:
        is_legacy = file.read(len(MAGIC)) == MAGIC
        file.seek(0)
        try:
            tensors, storages = read_legacy(file) if is_legacy else _read_archive(file)
            return {name: tensor.array(storages) for name, tensor in tensors.items()}
        except zipfile.BadZipFile:
            raise ValueError(
                f"{path} is no file of torch.save, or damaged; write the weights as safetensors "
                "instead."
            ) from None
        except DAMAGE as error:
            cause = str(error) or type(error).__name__
            raise ValueError(f"{path} cannot be read as tensors: {cause}.") from None


def _read_archive(file: io.BufferedReader) -> tuple[dict[str, Tensor], dict[str, np.ndarray]]:
    """The tensors that the file describes, and its storages by their keys."""
    with zipfile.ZipFile(file) as archive:
        (program,) = (name for name in archive.namelist() if name.endswith("/data.pkl"))
        folder = program.removesuffix("data.pkl")
        order = folder + "byteorder"
        if order in archive.namelist() and archive.read(order) != b"little":
            raise ValueError("its bytes are not in little-endian order")
        tensors = read_state_dict(io.BytesIO(archive.read(program)))
        storages = {}
        for storage in {tensor.storage for tensor in tensors.values()}:
            bytes_ = archive.read(f"{folder}data/{storage.key}")
            array = np.frombuffer(bytes_, storage.dtype)
            if len(array) < storage.size:
                raise ValueError(
                    f"storage {storage.key} has {len(array)} values in place of {storage.size}"
                )
            storages[storage.key] = array
    return tensors, storages
