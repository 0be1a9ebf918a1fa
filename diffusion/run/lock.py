"""One process at a time in a run's folder."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def held(run_dir: Path) -> Iterator[None]:
    """Within it no other process of this machine holds the folder; makes it if need be.

    A process that ends, however it ends, lets go. The lock leaves no file behind. Where the file
    system knows no locks there is none.

    Raises:
      ValueError: another process holds it.
      OSError: the folder cannot be made.
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
            pass  # no locks here
        yield
    finally:
        os.close(folder)
