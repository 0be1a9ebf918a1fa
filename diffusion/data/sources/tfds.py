"""A dataset that tensorflow-datasets has prepared, read without TensorFlow: tfds:NAME or
tfds:NAME:SPLIT.

It must have been prepared with file_format="array_record", and lie where tensorflow-datasets looks:
in the folder TFDS_DATA_DIR, or ~/tensorflow_datasets.
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
class TensorFlowDatasets:
    """The examples of a split, in their own order.

    `labels` takes the name of a feature that holds a class.

    Attributes:
      builder: the dataset.
      split: its part, such as "train".
      image: name of the feature that holds the picture.
      examples: the encoded examples by index.
    """

    builder: Any
    split: str
    image: str
    examples: Any

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(f"{self.builder.name}[{index}]" for index in range(len(self.examples)))

    @property
    def fingerprint(self) -> str:
        described = f"{self.builder.info.full_name} {self.split} {len(self.examples)}"
        return hashlib.sha256(described.encode()).hexdigest()

    def read(self, index: int) -> bytes | np.ndarray:
        return self.examples[index][self.image]

    def labels(self, field: str) -> Labels:
        features = self.builder.info.features
        if field not in features:
            raise ValueError(
                f"labels={field}: {self.builder.name} has no such feature, but "
                f"{', '.join(features)}."
            )
        values = [int(example[field]) for example in self.examples]
        names = getattr(features[field], "names", None)
        return (
            Labels(np.array(values, np.int32), tuple(names)) if names else classes_of(values, field)
        )


def open_tfds(name: str) -> TensorFlowDatasets:
    """Opens NAME or NAME:SPLIT.

    Raises:
      FileNotFoundError: it is not prepared.
      ValueError: only TensorFlow can read it, or it has no pictures.
    """
    name, _, split = name.partition(":")
    split = split or "train"
    with from_extra("train"):
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core.registered import DatasetNotFoundError
    folder = Path(os.environ.get("TFDS_DATA_DIR", "~/tensorflow_datasets")).expanduser()
    try:
        builder: Any = tfds.builder(name, data_dir=folder)
    except DatasetNotFoundError:
        raise FileNotFoundError(f"tfds:{name}: tensorflow-datasets knows no {name}.") from None
    if not builder.is_prepared():
        raise FileNotFoundError(
            f"tfds:{name} is not prepared in {folder}; run tfds.builder({name!r}, "
            'file_format="array_record").download_and_prepare(), or set TFDS_DATA_DIR.'
        )
    if builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise ValueError(
            f"tfds:{name} lies in {folder} as {builder.info.file_format.value}, which only "
            'TensorFlow can read; prepare it with file_format="array_record".'
        )
    features = builder.info.features
    images = [key for key, kind in features.items() if isinstance(kind, tfds.features.Image)]
    if not images:
        raise ValueError(f"tfds:{name} has no pictures, but {', '.join(features)}.")
    if split not in builder.info.splits:
        raise ValueError(
            f"tfds:{name} has no split {split}; choose from {', '.join(builder.info.splits)}."
        )
    image = "image" if "image" in images else images[0]
    skip = {image: tfds.decode.SkipDecoding()}
    return TensorFlowDatasets(builder, split, image, builder.as_data_source(split, decoders=skip))
