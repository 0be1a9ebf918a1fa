"""A dataset of the Hugging Face hub, or one saved by `datasets`: hf:NAME or hf:NAME:SPLIT.

NAME is one of the hub, or the folder that Dataset.save_to_disk wrote. Pictures are downloaded once,
by the library `datasets`, into its own cache.
"""

import hashlib
import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.data.sources.labels import Labels, classes_of
from diffusion.optional import from_extra


@dataclass(frozen=True, eq=False)
class HuggingFace:
    """The rows of a split.

    `labels` takes the name of a column that holds a class.

    Attributes:
      name: the dataset's name.
      rows: the rows.
      image: name of the column that holds the picture.
    """

    name: str
    rows: Any
    image: str

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{self.name}[{index}]" for index in range(len(self.rows)))

    @property
    def fingerprint(self) -> str:
        described = f"{self.name} {len(self.rows)} {self.rows._fingerprint}"
        return hashlib.sha256(described.encode()).hexdigest()

    def read(self, index: int) -> bytes:
        cell = self.rows[index][self.image]
        if cell is None:
            raise ValueError(f"{self.name}[{index}] has no picture")
        return cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()

    def labels(self, field: str) -> Labels:
        if field not in self.rows.column_names:
            raise ValueError(
                f"labels={field}: {self.name} has no such column, but "
                f"{', '.join(self.rows.column_names)}."
            )
        values, names = list(self.rows[field]), getattr(self.rows.features[field], "names", None)
        if any(not isinstance(value, int | str) or value == -1 for value in values):
            raise ValueError(f"labels={field}: a row of {self.name} has no class.")
        return (
            Labels(np.array(values, np.int32), tuple(names)) if names else classes_of(values, field)
        )


def open_hugging_face(name: str) -> HuggingFace:
    """Opens NAME or NAME:SPLIT.

    Raises:
      OSError: there is no such dataset, or the hub cannot be reached.
      ValueError: it has no such split or no pictures.
    """
    name, _, split = name.partition(":")
    with from_extra("huggingface"):
        import datasets  # type: ignore[import-not-found]
    try:
        if os.path.isdir(name) and not os.path.exists(os.path.join(name, "README.md")):
            found = datasets.load_from_disk(name)
            if isinstance(found, datasets.DatasetDict):
                found = found[split or "train"]
        else:
            found = datasets.load_dataset(name, split=split or "train")
    except KeyError:
        raise ValueError(f"hf:{name} has no split {split or 'train'}.") from None
    except (OSError, ValueError) as error:
        raise type(error)(f"hf:{name} cannot be opened: {error}") from None
    images = [key for key, kind in found.features.items() if isinstance(kind, datasets.Image)]
    if not images:
        raise ValueError(f"hf:{name} has no pictures, but {', '.join(found.column_names)}.")
    image = "image" if "image" in images else images[0]
    rows = found.cast_column(image, datasets.Image(decode=False))
    return HuggingFace(name, rows, image)
