"""Tar shards of pictures in webdataset's naming.

The files of one example have the same path up to the first dot of the last part, and differ in what
follows: a/1.jpg, a/1.cls, a/1.json. The shards are read in the order of their names, the examples
in the order in which they lie.

Source: https://github.com/webdataset/webdataset, its file format.
"""

import hashlib
import json
import os
import re
import tarfile
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from diffusion.data.sources.labels import Labels, as_label, classes_of
from diffusion.data.sources.source import check_size

IMAGES = ("jpg", "jpeg", "png", "webp", "ppm", "pgm", "bmp", "gif", "tif", "tiff")


class Member(NamedTuple):
    """Where a file lies: the number of its shard, its first byte and its size."""

    shard: int
    offset: int
    size: int


@dataclass(frozen=True)
class TarShards:
    """Pictures by their path in the shards, without what follows the first dot.

    `labels` takes an extension whose files hold a class, such as "cls", or "json:KEY".

    Attributes:
      paths: the shards, in order.
      names: name of the shard and key of each picture.
      fingerprint: a checksum of all shards' names and of the files' sizes in them.
      members: the files of each example, by their extension.
    """

    paths: tuple[Path, ...]
    names: tuple[str, ...]
    fingerprint: str
    members: tuple[dict[str, Member], ...]

    def read(self, index: int) -> bytes:
        files = self.members[index]
        extension = next((extension for extension in IMAGES if extension in files), None)
        if extension is None:
            raise ValueError(f"{self.names[index]} has no picture, but {', '.join(files)}")
        return self._content(files[extension])

    def labels(self, field: str) -> Labels:
        extension, _, key = field.partition(":")
        if extension == "json" and not key:
            raise ValueError("labels=json needs the name of a value, such as json:label.")
        values = []
        for name, files in zip(self.names, self.members, strict=True):
            if extension not in files:
                raise ValueError(f"labels={field}: {name} has no file .{extension}.")
            content = self._content(files[extension]).decode("utf-8", "replace").strip()
            if key:
                try:
                    content = as_label(json.loads(content)[key])
                except (ValueError, KeyError, TypeError, RecursionError):
                    raise ValueError(
                        f"labels={field}: {name}.{extension} has no {key!r} that is a word or a "
                        "whole number."
                    ) from None
            values.append(content)
        return classes_of(values, f"labels={field}")

    def _content(self, member: Member) -> bytes:
        check_size(self.paths[member.shard].name, member.size)
        content = os.pread(_opened(self.paths[member.shard]), member.size, member.offset)
        if len(content) < member.size:
            raise ValueError(f"{self.paths[member.shard]} ends too early")
        return content


@lru_cache(maxsize=256)
def _opened(path: Path) -> int:
    return os.open(path, os.O_RDONLY)


def shards(path: Path) -> list[Path]:
    """The shards of a path: one tar, all of a folder, or a{000..012}.tar in webdataset's notation.

    Raises:
      FileNotFoundError: a shard is missing.
      ValueError: the first number is above the last.
    """
    if braces := re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", str(path)):
        before, first, last, after = braces.groups()
        if int(first) > int(last):
            raise ValueError(f"{path}: {first} is above {last}; turn them round.")
        found = []
        for number in range(int(first), int(last) + 1):
            found.append(Path(f"{before}{number:0{len(first)}}{after}"))
            if not found[-1].is_file():
                raise FileNotFoundError(f"{found[-1]} does not exist.")
        return found
    if path.is_dir():
        tars = [file for file in path.glob("*.tar") if file.is_file()]
        return sorted(tars, key=lambda file: os.fsencode(file.name))
    if not path.exists():
        raise FileNotFoundError(
            f"{path} does not exist; shards are numbered by two whole numbers, a-{{000..127}}.tar."
        )
    return [path]


def holds_shards(folder: Path) -> bool:
    """Whether a folder is one of shards: it holds tars, and besides them no pictures.

    Raises:
      ValueError: it holds both.
    """
    entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".")]
    tars = [entry.name for entry in entries if entry.suffix == ".tar" and entry.is_file()]
    others = [
        entry.name
        for entry in entries
        if entry.suffix[1:].lower() in IMAGES or (tars and entry.is_dir())
    ]
    if tars and others:
        raise ValueError(
            f"{folder} holds shards ({min(tars)}) and pictures or folders ({min(others)}), and "
            "only one kind is read; move the other away, or give one file or sub-folder."
        )
    return bool(tars)


def _check_end(file: Path, offset: int) -> None:
    """Raises a TarError unless zeros or nothing follow, for tarfile takes damage for the end."""
    with open(file, "rb") as content:
        content.seek(offset)
        if any(content.read(tarfile.BLOCKSIZE)):
            raise tarfile.ReadError(f"it is damaged at byte {offset:,}")


def open_tar_shards(path: Path) -> TarShards:
    """Lists the shards.

    Raises:
      OSError: a shard is missing or cannot be opened.
      ValueError: a shard is no uncompressed tar.
    """
    paths, names, members, digest = shards(path), [], [], hashlib.sha256()
    for shard, file in enumerate(paths):
        try:
            with tarfile.open(file, "r:") as archive:
                for info in archive:
                    if not info.isfile() or os.path.basename(info.name).startswith("."):
                        continue
                    folder, _, last = info.name.rpartition("/")
                    stem, _, extension = last.partition(".")
                    key = f"{file.name}/{folder}/{stem}" if folder else f"{file.name}/{stem}"
                    if not names or names[-1] != key:
                        names.append(key)
                        members.append({})
                    members[-1][extension.lower()] = Member(shard, info.offset_data, info.size)
                    digest.update(f"{key}.{extension}\0{info.size}\0".encode(errors="replace"))
                _check_end(file, archive.offset)
        except tarfile.TarError as error:
            raise ValueError(
                f"{file} cannot be read as a tar without compression: {error}."
            ) from error
        digest.update(str(file.stat().st_mtime_ns).encode())
    return TarShards(tuple(paths), tuple(names), digest.hexdigest(), tuple(members))
