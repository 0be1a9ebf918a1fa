"""The interface of a source of pictures.

A source lists its pictures once, in an order that is the same on every machine, and then reads any
of them by its index. Each kind of source is one file of this folder.
"""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

import numpy as np

from diffusion.data.sources.labels import Labels

LARGEST_BYTES = 2**30
"""A file that is larger than this is no picture."""


def check_size(name: str, size: int) -> None:
    """Raises a ValueError if a file is too large to be a picture, before it is read."""
    if size > LARGEST_BYTES:
        raise ValueError(f"{name} has {size:,} bytes, more than any picture ({LARGEST_BYTES:,})")


@runtime_checkable
class Source(Protocol):
    """Pictures by index.

    Attributes:
      names: name of each picture for messages, such as its path; no two are equal.
      fingerprint: a text that changes if a picture is added, removed, renamed or replaced.
    """

    @property
    def names(self) -> Sequence[str]: ...

    @property
    def fingerprint(self) -> str: ...

    def read(self, index: int) -> bytes | np.ndarray:
        """The content of an image file, or pixels uint8 (H, W) or (H, W, C).

        Raises:
          OSError, ValueError: this picture cannot be read.
        """
        ...

    def labels(self, field: str) -> Labels:
        """The label of each picture.

        Args:
          field: where the labels are found; each source says what it knows.
        Raises:
          ValueError: there is no such field, or a picture has no label in it.
        """
        ...
