"""The interface between texts and networks: a reader turns texts into the arrays of a batch."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np


@runtime_checkable
class TextReader(Protocol):
    """Reads texts; of a run it lies in the run's folder as tokenizer.json."""

    def __call__(self, texts: Sequence[str]) -> dict[str, np.ndarray]:
        """The arrays that the network takes, each with a row for each text; "" is the null text."""
        ...

    @property
    def num_tokens(self) -> int:
        """Tokens that are read of a text."""
        ...

    def tokens(self, text: str) -> list[str]:
        """The tokens that are read of a text, without padding."""
        ...

    def unknown_words(self, text: str) -> list[str]:
        """The words of which the network has learned nothing."""
        ...

    def is_cut(self, text: str) -> bool:
        """Whether the text is longer than what is read of it."""
        ...

    def to_json(self) -> str: ...


@dataclass(frozen=True, eq=False)
class Texts:
    """The texts of a dataset.

    Attributes:
      captions: text of each example.
      reader: turns texts into what the network takes.
    """

    captions: tuple[str, ...]
    reader: TextReader
