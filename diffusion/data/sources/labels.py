"""How the labels of pictures become classes, and where the labels of named pictures are found.

"folders" takes the outermost folder in which the pictures' paths differ. Otherwise a file among the
pictures has them:

    labels.csv       a first line with names of columns, one of which is file_name
    metadata.jsonl   {"file_name": "a/1.png", "label": "cat"} in each line, as in Hugging Face's
                     image folders
    dataset.json     {"labels": [["a/1.png", 3], ...]}, as in EDM's and StyleGAN's datasets
"""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from jaxtyping import Int32

from diffusion.data.sources.tables import DAMAGED, rows_of

MOST_CLASSES = 100_000
SUFFIXES = (".csv", ".jsonl", ".json")
FILE_COLUMNS = ("file_name", "filename", "file", "path", "image")


@dataclass(frozen=True)
class Labels:
    """The labels of a source's pictures.

    Attributes:
      classes: class of each picture.
      names: name of each class.
    """

    classes: Int32[np.ndarray, "N"]
    names: tuple[str, ...]


def classes_of(values: Sequence[str | int], where: str) -> Labels:
    """Turns labels into classes.

    If all labels are whole numbers, they are the classes, and classes that no picture has count
    too. Otherwise the classes are the labels in the order of their characters.

    Args:
      where: what errors call the labels.
    Raises:
      ValueError: whole numbers below 0, or of MOST_CLASSES or more, which are no classes.
    """
    texts = [str(value) for value in values]
    if all(text.isascii() and text.removeprefix("-").isdecimal() for text in texts):
        if negative := [text for text in texts if text.startswith("-")]:
            raise ValueError(
                f"{where}: label {negative[0]} is no class; number the classes from 0, and leave "
                "out pictures without one."
            )
        if longest := [text for text in texts if len(text) > 20]:
            raise ValueError(f"{where}: label {longest[0][:20]}... is no class.")
    if all(text.isascii() and text.isdecimal() for text in texts):
        classes = [int(text) for text in texts]
        count = max(classes) + 1
        if count > MOST_CLASSES:
            raise ValueError(
                f"{where}: label {max(classes)} is no class; classes are 0 .. {MOST_CLASSES - 1}."
            )
        return Labels(np.array(classes, np.int32), tuple(map(str, range(count))))
    names = tuple(sorted(set(texts)))
    index = {name: i for i, name in enumerate(names)}
    return Labels(np.array([index[text] for text in texts], np.int32), names)


def is_label_file(name: str) -> bool:
    """Whether a file of this name, such as labels.csv, holds labels and is no picture."""
    return PurePosixPath(name).suffix.lower() in SUFFIXES


def labels_by_path(
    field: str, names: Sequence[str], where: str, content: Callable[[str], bytes | None]
) -> Labels:
    """The labels of pictures that have paths.

    Args:
      field: "folders", or a file of labels and, after a colon, its column ("label" by default).
      names: paths of the pictures.
      where: the folder or archive that holds them, for messages.
      content: `content(name)` is what the file of this name there holds; None if there is none.
    Raises:
      ValueError: the field is neither, there is no such file, it is damaged, or a picture has no
        label in it.
    """
    if field == "folders":
        if outside := [name for name in names if "/" not in name]:
            raise ValueError(
                f"labels=folders: {outside[0]!r} lies in no sub-folder of {where}; move each "
                "picture into a folder that has the name of its class."
            )
        return classes_of(_folders([name.removeprefix("./") for name in names]), where)
    file, _, column = field.partition(":")
    if not is_label_file(file):
        raise ValueError(
            f"labels={field} is neither folders nor a file that ends in {', '.join(SUFFIXES)}."
        )
    found = content(file)
    if found is None:
        raise ValueError(f"labels={field}: {where} holds no {file}.")
    try:
        table = _read(found, PurePosixPath(file).suffix.lower(), column or "label")
    except DAMAGED as error:
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{file} cannot be read as a table of labels: {said}.") from None
    names = [name.removeprefix("./") for name in names]  # as the table has them
    if missing := [name for name in names if name not in table]:
        raise ValueError(
            f"{file} has no label for {len(missing)} of {len(names)} pictures, such as "
            f"{missing[0]!r}; add them, or move the pictures away."
        )
    return classes_of([table[name] for name in names], field)


def _folders(names: Sequence[str]) -> list[str]:
    """The folder of each path that is its class: below those that all share, as archives do."""
    paths, depth = [name.split("/") for name in names], 0
    while len({path[depth] for path in paths}) == 1 and min(map(len, paths)) > depth + 2:
        depth += 1
    return [path[depth] for path in paths]


def _read(content: bytes, suffix: str, column: str) -> dict[str, str | int]:
    if suffix == ".json":
        pairs = json.loads(content.decode("utf-8-sig"))["labels"]
        if pairs is None:
            raise ValueError("its labels are null")
        return _table((name, label) for name, label in pairs)
    rows = rows_of(content, suffix)
    if not rows:
        raise ValueError("it has no rows")
    columns = list(rows[0])
    file = next((name for name in FILE_COLUMNS if name in columns), None)
    if file is None:
        raise ValueError(f"none of its columns {', '.join(columns)} is file_name")
    if column not in columns:
        raise ValueError(
            f"it has no column {column!r}; choose one by FILE:COLUMN from {', '.join(columns)}"
        )
    if lacking := [row[file] for row in rows if column not in row]:
        raise ValueError(f"{lacking[0]!r} has no {column!r}")
    return _table((row[file], row[column]) for row in rows)


def _table(pairs: Iterable[tuple[str, Any]]) -> dict[str, str | int]:
    table = {}
    for name, value in pairs:
        name, label = name.removeprefix("./"), as_label(value)
        if table.setdefault(name, label) != label:
            raise ValueError(f"{name!r} has two labels, {table[name]!r} and {label!r}")
    return table


def as_label(value: Any) -> str | int:
    """A label as a file holds it: a word, without the space around it, or a whole number.

    Raises:
      ValueError: it is neither.
    """
    value = value.strip() if isinstance(value, str) else value
    if not isinstance(value, str | int) or value == "":
        raise ValueError(f"{value!r} is no label; use a word or a whole number")
    return value
