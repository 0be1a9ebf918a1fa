"""The lock of a cache's folder: one process at a time fills it, and others find it done."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def waited_for(folder: Path) -> Iterator[None]:
    """Context in which this process holds the folder's lock, once no other holds it.

    Creates the folder. The operating system releases the lock when the process ends, even by a
    kill; on a file system without locks it has no effect.

    Raises:
      OSError: the folder cannot be created.
    """
    folder.mkdir(parents=True, exist_ok=True)
    opened = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # the file system has no locks
            fcntl.flock(opened, fcntl.LOCK_EX)
        yield
    finally:
        os.close(opened)
