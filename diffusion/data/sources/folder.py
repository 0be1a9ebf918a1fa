"""A folder of pictures, with all its sub-folders.

Every file is taken for a picture but hidden ones and files of labels. Links are followed, a folder
that was visited before is not visited again, and a link that leads nowhere is a damaged picture.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from diffusion.data.sources.labels import Labels, is_label_file, labels_by_path
from diffusion.data.sources.source import check_size


@dataclass(frozen=True)
class Folder:
    """Pictures by their path below a folder, in the order of the paths' bytes.

    `labels` takes "folders", the name of the sub-folder in which a picture lies, or a file of
    labels, see `labels_by_path`.

    Attributes:
      path: the folder.
      names: path of each picture, with "/" between its parts.
      fingerprint: a checksum of all paths, sizes and times of change.
    """

    path: Path
    names: tuple[str, ...]
    fingerprint: str

    def read(self, index: int) -> bytes:
        file = self.path / self.names[index]
        status = os.stat(file)
        if not stat.S_ISREG(status.st_mode):  # opening a pipe would wait for ever
            raise ValueError(f"{self.names[index]} is no file")
        check_size(self.names[index], status.st_size)
        return file.read_bytes()

    def labels(self, field: str) -> Labels:
        return labels_by_path(field, self.names, str(self.path), self.content)

    def content(self, name: str) -> bytes | None:
        """What the file of this name holds; None if there is none."""
        file = self.path / name
        return file.read_bytes() if file.is_file() else None


def open_folder(path: Path) -> Folder:
    """Lists the folder.

    Raises:
      OSError: it cannot be listed.
    """
    found = sorted((os.fsencode(name), name, kept) for name, kept in _walk(path, "", set()))
    digest = hashlib.sha256()
    for encoded, _, kept in found:
        digest.update(encoded + b"\0" + kept.encode() + b"\0")
    return Folder(path, tuple(name for _, name, _ in found), digest.hexdigest())


def _walk(folder: Path, prefix: str, visited: set[tuple[int, int]]) -> Iterator[tuple[str, str]]:
    """Yields the name of each file, and its size and time of change."""
    status = folder.stat()
    if (status.st_dev, status.st_ino) in visited:
        return
    visited.add((status.st_dev, status.st_ino))
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            try:
                status = entry.stat()
            except OSError:  # a link that leads nowhere, or back to itself
                yield prefix + entry.name, "missing"
                continue
            if stat.S_ISDIR(status.st_mode):
                yield from _walk(folder / entry.name, f"{prefix}{entry.name}/", visited)
            elif not is_label_file(entry.name):
                yield prefix + entry.name, f"{status.st_size} {status.st_mtime_ns}"
