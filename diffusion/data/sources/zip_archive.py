"""A ZIP of pictures, such as EDM's dataset_tool writes.

Every file in it is taken for a picture but hidden ones and files of labels.
"""

import hashlib
import lzma
import os
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath

from diffusion.data.sources.labels import Labels, is_label_file, labels_by_path
from diffusion.data.sources.source import check_size

DAMAGED = (
    *(zipfile.BadZipFile, RuntimeError, NotImplementedError, EOFError),
    *(zlib.error, lzma.LZMAError, OSError),  # of the three ways of packing; bz2 raises OSError
)
"""What zipfile raises for a file that is damaged, or that it cannot unpack."""


@dataclass(frozen=True)
class ZipArchive:
    """Pictures by their path in the archive, in the order of the paths' bytes.

    `labels` takes "folders", the name of the folder in which a picture lies, or a file of labels,
    see `labels_by_path`.

    Attributes:
      path: the archive.
      names: path of each picture.
      fingerprint: a checksum of its size, time of change, and all paths and checksums in it.
    """

    path: Path
    names: tuple[str, ...]
    fingerprint: str

    def read(self, index: int) -> bytes:
        return self._content(self.names[index])

    def labels(self, field: str) -> Labels:
        return labels_by_path(field, self.names, str(self.path), self.content)

    def content(self, name: str) -> bytes | None:
        """What the file of this name holds; None if there is none."""
        return self._content(name) if name in _opened(self.path).NameToInfo else None

    def _content(self, name: str) -> bytes:
        archive = _opened(self.path)
        check_size(name, archive.getinfo(name).file_size)
        try:
            return archive.read(name)
        except DAMAGED as error:
            raise ValueError(f"{name} cannot be unpacked: {error}") from error


@lru_cache(maxsize=8)
def _opened(path: Path) -> zipfile.ZipFile:  # once in a process, since its list is read each time
    return zipfile.ZipFile(path)


def open_zip(path: Path) -> ZipArchive:
    """Lists the archive.

    Raises:
      OSError: it cannot be opened.
      ValueError: it is no ZIP, or holds the same path twice.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            infos = [info for info in archive.infolist() if not info.is_dir()]
    except zipfile.BadZipFile as error:
        raise ValueError(f"{path} is no ZIP archive, or damaged: {error}.") from error
    infos = [info for info in infos if not is_label_file(info.filename) and not _hidden(info)]
    infos.sort(key=lambda info: os.fsencode(info.filename))
    names = tuple(info.filename for info in infos)
    if len(set(names)) < len(names):
        twice = next(a for a, b in zip(names, names[1:], strict=False) if a == b)
        raise ValueError(f"{path} holds {twice!r} twice; pack it again.")
    status = path.stat()  # damage in the middle changes nothing in the list of files
    digest = hashlib.sha256(f"{status.st_size} {status.st_mtime_ns}".encode())
    for info in infos:
        digest.update(f"{info.filename}\0{info.file_size} {info.CRC}\0".encode(errors="replace"))
    return ZipArchive(path, names, digest.hexdigest())


def _hidden(info: zipfile.ZipInfo) -> bool:
    parts = PurePosixPath(info.filename).parts
    return any(part.startswith(".") or part == "__MACOSX" for part in parts)
