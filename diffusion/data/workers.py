"""Prepares batches in processes of their own, by Grain."""

from collections.abc import Callable, Generator
from typing import Any

import numpy as np

from diffusion.data import processes
from diffusion.optional import from_extra

AHEAD = 2
"""Batches that each process prepares in advance."""


def each_step(
    prepare: Callable[[int], list[dict[str, np.ndarray]]], first: int, num_workers: int
) -> Generator[list[dict[str, np.ndarray]], None, None]:
    """Yields prepare(first), prepare(first + 1) and so on, without end.

    Args:
      prepare: parts of a batch, as arrays by name, as a function of the step; it is sent to the
        processes, so what it holds must allow that.
      num_workers: number of processes; they take turns. 0 for none but this one.
    """
    if num_workers == 0:
        step = first
        while True:
            yield prepare(step)
            step += 1
    with from_extra("train"):
        import grain
        from absl import flags
    flags.FLAGS.mark_as_parsed()  # Grain's processes ask for them, and this program has none
    # as bytes: arrays would be sent in shared memory, which outlives processes that are stopped
    steps = grain.MapDataset.range(first, 2**62).map(prepare).map(_packed)
    without_threads = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    options = grain.MultiprocessingOptions(num_workers=num_workers, per_worker_buffer_size=AHEAD)
    with processes.deaf_to_interrupts():  # so are the threads that start the processes
        batches = steps.to_iter_dataset(without_threads).mp_prefetch(options).__iter__()
    try:
        while True:
            with processes.deaf_to_interrupts():  # the first batch of each process starts it
                parts = next(batches)
            yield _unpacked(parts)
    finally:
        batches.close()


def _packed(parts: list[dict[str, np.ndarray]]) -> list[dict[str, tuple[bytes, Any, Any]]]:
    processes.end_with_parent()
    return [
        {name: (values.tobytes(), values.dtype, values.shape) for name, values in part.items()}
        for part in parts
    ]


def _unpacked(parts: list[dict[str, tuple[bytes, Any, Any]]]) -> list[dict[str, np.ndarray]]:
    return [
        {
            name: np.frombuffer(values, dtype).reshape(shape)
            for name, (values, dtype, shape) in part.items()
        }
        for part in parts
    ]
