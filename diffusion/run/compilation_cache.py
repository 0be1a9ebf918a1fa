"""Compiled functions on disk, so that the next start is quick."""

import zlib
from pathlib import Path

import jax

CHECKED = ".checked"


def enable() -> None:
    """Stores compiled functions from now on, and reads those that are stored.

    The folder is JAX_COMPILATION_CACHE_DIR's, or .cache/unet-flax in the user's home.
    """
    named = jax.config.values["jax_compilation_cache_dir"]
    folder = Path(named or Path.home() / ".cache" / "unet-flax")
    if named is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
    if folder.is_dir():
        remove_damaged(folder)


def remove_damaged(folder: Path) -> None:
    """Removes entries that a killed process left incomplete: JAX neither uses nor replaces them.

    Each entry is checked once: the time of the last check is that of the file `.checked`.
    """
    mark = folder / CHECKED
    since = mark.stat().st_mtime if mark.exists() else 0.0
    try:
        mark.touch()
        for entry in folder.glob("*-cache"):
            if entry.stat().st_mtime >= since and not _is_whole(entry.read_bytes()):
                entry.unlink(missing_ok=True)
    except OSError:
        pass  # another's folder: whoever can write there looks after it


def _is_whole(entry: bytes) -> bool:
    if not entry.startswith(b"\x78"):
        return bool(entry)  # not zlib, which JAX uses unless zstandard is installed
    try:
        zlib.decompress(entry)
    except zlib.error:
        return False
    return True
