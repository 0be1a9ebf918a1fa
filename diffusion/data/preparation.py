"""Reads every picture of a source once, and keeps the fitted pixels in a cache.

So damaged pictures are found before training starts, and each is decoded and resized only once. The
cache of a source is a folder whose name is a checksum of the source and of how it is fitted:

    pixels.bin      uint8 (N, H, W, C), the pictures that can be read, in the source's order
    progress.jsonl  a line for each part that is done, from which a killed preparation goes on
    index.json      written at the end: the number of pictures, those that cannot be read, and the
                    checksum of the pixels of all others
"""

import contextlib
import errno
import hashlib
import json
import multiprocessing
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Int, UInt8

from diffusion.data import cache_lock, checksum, processes
from diffusion.data.fit import Fit
from diffusion.data.sources import Source
from diffusion.optional import from_extra

with from_extra("train"):
    from tqdm import tqdm

PART = 256
"""Pictures that a process reads at a time."""

AHEAD = 2
"""Parts for each process that are read before they are needed."""

IN_PROCESS = 2000
"""Fewer pictures than this are read without further processes, which take seconds to start."""

IN_MEMORY_BYTES = 2**31
"""Pixels of at most this size are read into memory; larger ones are read where they lie."""


class Rejected(NamedTuple):
    """A picture that cannot be read, and why."""

    picture: int
    reason: str


@dataclass(frozen=True, eq=False)
class Prepared:
    """What can be read of a source.

    Attributes:
      kept: the pictures that can be read, as indices of the source, ascending.
      rejected: the others.
      pixels: the pictures that can be read; None if they were not kept.
      checksum: `checksum.of_array` of their pixels, kept or not.
    """

    kept: Int[np.ndarray, "N"]
    rejected: tuple[Rejected, ...]
    pixels: UInt8[np.ndarray, "N H W C"] | None
    checksum: int


def prepare(
    source: Source, fit: Fit, cache_dir: Path, *, keeps_pixels: bool, num_workers: int
) -> Prepared:
    """Reads all pictures, or what was kept of an earlier call.

    Args:
      cache_dir: folder of all caches.
      keeps_pixels: whether the pixels are kept too, which takes N * H * W * C bytes.
      num_workers: processes that read; 0 for none but this one.
    Raises:
      OSError: the cache cannot be written, for lack of room or else, or a process was killed.
    """
    described = f"2 {source.fingerprint} {fit} {keeps_pixels}"
    folder = cache_dir / hashlib.sha256(described.encode()).hexdigest()[:20]
    image_bytes = fit.height * fit.width * fit.channels if keeps_pixels else 0
    try:
        with cache_lock.waited_for(folder):  # the others wait, and find it done
            if (found := _finished(folder, image_bytes)) is None:
                if len(source.names) < IN_PROCESS:
                    num_workers = 0
                found = _write(folder, source, fit, image_bytes, num_workers)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise
        raise OSError(
            f"{folder}: {error.strerror}; make room for {len(source.names) * image_bytes:,} bytes "
            "and run the same command again, or choose another data.cache_dir, or "
            "data.keeps_pixels=false, which needs none."
        ) from error
    rejected = tuple(Rejected(*pair) for pair in found["rejected"])
    is_kept = np.ones(found["num_pictures"], bool)
    is_kept[[picture for picture, _ in rejected]] = False
    kept = np.flatnonzero(is_kept)
    pixels = None
    if keeps_pixels and len(kept):
        shape = (len(kept), fit.height, fit.width, fit.channels)
        pixels = np.memmap(folder / "pixels.bin", np.uint8, "r", shape=shape)
        if pixels.nbytes <= IN_MEMORY_BYTES:
            pixels = np.array(pixels)
    return Prepared(kept, rejected, pixels, found["checksum"])


def _finished(folder: Path, image_bytes: int) -> dict[str, Any] | None:
    """What an earlier call found, or None if there is none, or its files are not whole."""
    try:
        found = json.loads((folder / "index.json").read_text())
        size = (folder / "pixels.bin").stat().st_size
    except (FileNotFoundError, ValueError):  # a machine that loses power may leave it empty
        return None
    num_kept = found["num_pictures"] - len(found["rejected"])
    return found if size == num_kept * image_bytes else None


def _write(
    folder: Path, source: Source, fit: Fit, image_bytes: int, num_workers: int
) -> dict[str, Any]:
    total, keeps_pixels = len(source.names), image_bytes > 0
    parts = _finished_parts(folder / "progress.jsonl")
    done, crc = (parts[-1]["done"], parts[-1]["checksum"]) if parts else (0, 0)
    rejected = [pair for part in parts for pair in part["rejected"]]
    kept_bytes = (done - len(rejected)) * image_bytes
    file = folder / "pixels.bin"
    if kept_bytes > (file.stat().st_size if file.exists() else 0):  # or they would become black
        parts, done, crc, rejected, kept_bytes = [], 0, 0, [], 0
    with (
        open(file, "ab") as pixels,
        open(folder / "progress.jsonl", "w") as progress,
        tqdm(total=total, initial=done, unit="img", desc="reading", disable=None) as bar,
    ):
        progress.writelines(json.dumps(part) + "\n" for part in parts)
        pixels.truncate(kept_bytes)
        spans = [range(i, min(i + PART, total)) for i in range(done, total, PART)]
        for span, (block, errors) in zip(
            spans, _read_spans(source, fit, spans, num_workers), strict=True
        ):
            if keeps_pixels:
                pixels.write(block.tobytes())
                pixels.flush()
            rejected += errors
            crc = checksum.of_array(block, crc)
            part = {"done": span.stop, "rejected": errors, "checksum": crc}
            progress.write(json.dumps(part) + "\n")
            progress.flush()
            bar.update(len(span))
    partial = folder / ".index.json"
    found = {"num_pictures": total, "rejected": rejected, "checksum": crc}
    partial.write_text(json.dumps(found))
    partial.replace(folder / "index.json")
    return found


def _finished_parts(file: Path) -> list[dict[str, Any]]:
    parts = []
    if file.exists():
        for line in file.read_text().splitlines():
            with contextlib.suppress(ValueError):  # the last line of a call that was killed
                parts.append(json.loads(line))
    return parts


Block = tuple[UInt8[np.ndarray, "n H W C"], list[Rejected]]


def _read_spans(
    source: Source, fit: Fit, spans: Sequence[range], num_workers: int
) -> Iterator[Block]:
    if num_workers == 0:
        yield from (_read(source, fit, span) for span in spans)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the locks of JAX's threads
    with ProcessPoolExecutor(num_workers, context, _start_worker, (source, fit)) as pool:
        try:
            ahead: deque[Future[Block]] = deque()
            for span in spans:
                with processes.deaf_to_interrupts(), processes.without_main_module():
                    ahead.append(pool.submit(_read_in_worker, span))  # starts a process, at first
                if len(ahead) > AHEAD * num_workers:  # all at once could fill the memory
                    yield ahead.popleft().result()
            yield from (part.result() for part in ahead)
        except BrokenProcessPool:
            raise ChildProcessError(
                "a process that reads pictures was killed, perhaps for lack of memory; use "
                "fewer by data.num_workers, or 0."
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


_worker: dict[str, Any] = {}
"""In a worker process: the source and the fit, sent once."""


def _start_worker(source: Source, fit: Fit) -> None:
    processes.end_with_parent()
    _worker.update(source=source, fit=fit)


def _read_in_worker(span: range) -> Block:
    return _read(_worker["source"], _worker["fit"], span)


def _read(source: Source, fit: Fit, span: range) -> Block:
    images, rejected = [], []
    for index in span:
        name = source.names[index]
        try:
            images.append(fit(source.read(index), name))
        except (ValueError, OSError) as error:
            reason = getattr(error, "strerror", None)  # without the path, which is the name
            rejected.append(Rejected(index, f"{name}: {reason}" if reason else str(error)))
    shape = (-1, fit.height, fit.width, fit.channels)
    return np.array(images, np.uint8).reshape(shape), rejected
