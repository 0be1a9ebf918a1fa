"""JAX's persistent compilation cache, so that the next start is fast."""

import zlib
from pathlib import Path

import jax


def enable() -> None:
    """Turns the cache on, after removing damaged entries.

    The folder is JAX_COMPILATION_CACHE_DIR if that is set, else ~/.cache/unet-flax.
    """
    named = jax.config.values["jax_compilation_cache_dir"]
    folder = Path(named or Path.home() / ".cache" / "unet-flax")
    if named is None:
        jax.config.update("jax_compilation_cache_dir", str(folder))
    if folder.is_dir():
        remove_damaged(folder)


def remove_damaged(folder: Path) -> None:
    """Removes entries that a killed process left incomplete; JAX neither uses nor replaces them.

    Each entry is checked once: the modification time of the file `.checked` is that of the last
    check.
    """
    last_check = folder / ".checked"
    since = last_check.stat().st_mtime if last_check.exists() else 0.0
    try:
        last_check.touch()
        for entry in folder.glob("*-cache"):
            if entry.stat().st_mtime >= since and not _is_complete(entry.read_bytes()):
                entry.unlink(missing_ok=True)
    except OSError:
        pass  # the folder is not writable: its owner's own runs check it


def _is_complete(entry: bytes) -> bool:
    if not entry.startswith(b"\x78"):
        return bool(entry)  # compressed by zstandard: JAX uses it instead of zlib if installed
    try:
        zlib.decompress(entry)
    except zlib.error:
        return False
    return True
