"""The lock that allows one training process at a time in a run's folder."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """Context in which this process holds the folder's lock; creates the folder if it is missing.

    The operating system releases the lock when the process ends, even by a kill. No lock file is
    left behind. The lock works between processes of one machine; on a file system without locks it
    has no effect.

    Raises:
      ValueError: another process holds the lock.
      OSError: the folder cannot be created.
    """
    run_dir.mkdir(parents=True, exist_ok=True)
    folder = os.open(run_dir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ValueError(
                f"another process trains in {run_dir}; wait until it ends, or choose another "
                "--run-dir."
            ) from None
        except OSError:
            pass  # the file system has no locks
        yield
    finally:
        os.close(folder)
