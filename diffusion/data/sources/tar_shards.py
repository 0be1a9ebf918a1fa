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

from diffusion.data.sources.labels import Labels, classes_of

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
                    content = json.loads(content)[key]
                except (ValueError, KeyError, TypeError):
                    raise ValueError(
                        f"labels={field}: {name}.{extension} has no {key!r}."
                    ) from None
            values.append(content)
        return classes_of(values, f"labels={field}")

    def _content(self, member: Member) -> bytes:
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
    """
    if braces := re.fullmatch(r"(.*)\{(\d+)\.\.(\d+)\}(.*)", str(path)):
        before, first, last, after = braces.groups()
        numbers = range(int(first), int(last) + 1)
        found = [Path(f"{before}{number:0{len(first)}}{after}") for number in numbers]
        if missing := [file for file in found if not file.is_file()]:
            raise FileNotFoundError(f"{missing[0]} does not exist.")
        return found
    if path.is_dir():
        return sorted(path.glob("*.tar"), key=lambda file: os.fsencode(file.name))
    return [path]


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
        except tarfile.TarError as error:
            raise ValueError(
                f"{file} cannot be read as a tar without compression: {error}."
            ) from error
        digest.update(str(file.stat().st_mtime_ns).encode())
    return TarShards(tuple(paths), tuple(names), digest.hexdigest(), tuple(members))
