"""Tables that lie among pictures: .csv with a first line of names, or .jsonl with an object a line.

metadata.jsonl   {"file_name": "a/1.png", "text": "a red heart"}, as in Hugging Face's folders
                 {"original_image": ..., "edit_prompt": ..., "edited_image": ...}
"""

import csv
import io
import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

DAMAGED = (ValueError, KeyError, TypeError, AttributeError, RecursionError, csv.Error)
"""What is raised for a table that cannot be read."""


def rows_of(content: bytes, suffix: str) -> list[dict[str, Any]]:
    """The rows of a table, ".csv" or ".jsonl".

    Raises:
      one of DAMAGED.
    """
    text = content.decode("utf-8-sig")
    if suffix == ".csv":
        return list(csv.DictReader(io.StringIO(text), skipinitialspace=True))
    # other ends of lines than this may stand within a word
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def read_table(source: Any, file: str, columns: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Some columns of a table in a source, each as text without the space around it.

    Args:
      source: a folder or a ZIP.
      file: name of the table in it.
      columns: the names that each column may have.
    Raises:
      ValueError: the source holds no tables or none of this name, it is damaged or has no such
        columns, or a value is no text.
    """
    content = getattr(source, "content", None)
    if content is None:
        raise ValueError(f"{file}: only a folder or a ZIP of pictures has such a table.")
    found = content(file)
    if found is None:
        raise ValueError(f"{source.path} holds no {file}, which should have the texts.")
    try:
        rows = rows_of(found, PurePosixPath(file).suffix.lower())
        chosen = [_column(rows[0] if rows else {}, names) for names in columns]
        return [tuple(_text(row, name) for name in chosen) for row in rows]
    except DAMAGED as error:
        said = str(error) if isinstance(error, ValueError) else f"{type(error).__name__}: {error}"
        raise ValueError(f"{file} cannot be read as a table of texts: {said}.") from None


def check_pictures(file: str, named: Sequence[str], there: Sequence[str]) -> None:
    """Raises a ValueError if a table names pictures that are not there."""
    if missing := sorted(set(named) - set(there)):
        raise ValueError(
            f"{file} names {len(missing)} pictures that are not there, such as {missing[0]!r}; add "
            "them, or remove their lines."
        )


def _column(row: dict[str, Any], names: Sequence[str]) -> str:
    found = next((name for name in names if name in row), None)
    if found is None:
        raise ValueError(f"none of its columns {', '.join(row)} is {' or '.join(names)}")
    return found


def _text(row: dict[str, Any], name: str) -> str:
    value = row.get(name)
    if not isinstance(value, str):
        raise ValueError(f"{value!r} in column {name} is no text")
    return value.strip()
