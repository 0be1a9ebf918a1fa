"""How batches reach the devices: prefetched one by one, or gathered there from the whole dataset.

With both, batch k is the same function of (seed, k), and `feed.run(state, first, last)` takes
training steps first + 1 .. last.
"""

import queue
import threading
from collections.abc import Generator
from contextlib import closing
from functools import partial
from typing import Any

import jax
import numpy as np

from diffusion import sharding
from diffusion.data import workers
from diffusion.data.dataset import Dataset, InMemory
from diffusion.run import hardware, hosts
from diffusion.run.meter import DispatchMetrics
from diffusion.training.update import TrainState, TrainStep, make_train_steps

BATCHES_AHEAD = 2
"""Number of batches that are put on the devices in advance."""

STEPS_PER_DISPATCH = 10
"""Default where the dataset lies on an accelerator."""


class Prefetched:
    """Takes one step per dispatch; a thread puts batches on the devices while earlier steps run.

    Args:
      train_step: takes one step.
      key: the run's random key.
      seed: seed of the order of the images.
      first: number of steps taken before.
    """

    steps_per_dispatch = 1

    def __init__(
        self,
        train_step: TrainStep,
        dataset: Dataset,
        mesh: jax.sharding.Mesh,
        *,
        key: Any,
        seed: int,
        first: int,
    ):
        self._train_step, self._key = train_step, key
        self._batches = prefetch(dataset, mesh, seed, first)

    def run(
        self, state: TrainState, first: int, last: int
    ) -> tuple[TrainState, list[DispatchMetrics]]:
        """Returns the state after step `last`, and the metrics of each step."""
        metrics = []
        for _ in range(first, last):
            state, values = self._train_step(state, next(self._batches), self._key)
            metrics.append((values, 1))
        return state, metrics

    def close(self) -> None:
        self._batches.close()


def prefetch(
    dataset: Dataset, mesh: jax.sharding.Mesh, seed: int, first: int
) -> Generator[dict[str, jax.Array], None, None]:
    """Yields batch `first` and all that follow, without end."""
    ready: queue.Queue[Any] = queue.Queue(BATCHES_AHEAD)
    is_closed = threading.Event()

    def put(item: Any) -> None:
        while not is_closed.is_set():
            try:
                return ready.put(item, timeout=0.1)
            except queue.Full:
                pass

    slices = sharding.slices(mesh, dataset.batch_size)
    prepare = partial(_rows, dataset, seed, slices)
    num_workers = getattr(dataset, "num_workers", 0)  # most datasets need none, and say nothing

    def work() -> None:
        with closing(workers.each_step(prepare, first, num_workers)) as batches:
            try:
                while not is_closed.is_set():
                    put(sharding.put_slices(mesh, dataset.batch_size, next(batches)))
            except Exception as error:  # raised again in the training thread
                put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item = ready.get()
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        is_closed.set()
        thread.join()


def _rows(
    dataset: Dataset, seed: int, slices: list[slice], step: int
) -> list[dict[str, np.ndarray]]:
    return [dataset.batch(seed, step, rows) for rows in slices]


class OnDevice:
    """Keeps the whole dataset on every device, and takes several steps per dispatch.

    Args:
      train_step: takes one step.
      resident: the dataset's arrays, and the indices of each batch.
      key: the run's random key.
      seed: seed of the order of the images.
      steps: largest number of steps per dispatch.
    """

    def __init__(
        self,
        train_step: TrainStep,
        resident: InMemory,
        mesh: jax.sharding.Mesh,
        *,
        key: Any,
        seed: int,
        steps: int,
    ):
        self._train_steps, self._key, self._mesh = make_train_steps(train_step), key, mesh
        self._indices, self._seed, self.steps_per_dispatch = resident.indices, seed, steps
        self._arrays = sharding.on_every_device(mesh, resident.arrays)

    def run(
        self, state: TrainState, first: int, last: int
    ) -> tuple[TrainState, list[DispatchMetrics]]:
        """Returns the state after step `last`, and the metrics of each dispatch."""
        metrics = []
        while first < last:
            steps = min(self.steps_per_dispatch, last - first)
            # indices of unused steps keep the shape fixed, so that nothing is compiled again
            rows = range(first, first + self.steps_per_dispatch)
            indices = np.stack([self._indices(self._seed, step) for step in rows])
            chosen = sharding.shard_indices(self._mesh, indices)
            count = np.int32(steps)
            state, values = self._train_steps(state, self._arrays, chosen, count, self._key)
            metrics.append((values, steps))
            first += steps
        return state, metrics

    def close(self) -> None:
        pass


Feed = Prefetched | OnDevice


def make_feed(
    train_step: TrainStep,
    dataset: Dataset,
    mesh: jax.sharding.Mesh,
    *,
    key: Any,
    seed: int,
    first: int,
    steps_per_dispatch: int | None,
) -> Feed:
    """Chooses `OnDevice` or `Prefetched`, by the size of the dataset and the devices' memory.

    Args:
      key: the run's random key.
      seed: seed of the order of the images.
      first: number of steps taken before.
      steps_per_dispatch: 1 prefetches; more keep the dataset on the devices; None is
        `STEPS_PER_DISPATCH` if the dataset fits there, else 1. More than 1 needs a dataset that is
        in memory.
    """
    resident = dataset.resident()
    if steps_per_dispatch is None:
        fits = resident is not None and hardware.fits_on_device(
            resident.num_bytes, mesh.local_devices[0]
        )
        steps_per_dispatch = 1 if hosts.any_host(not fits) else STEPS_PER_DISPATCH
    if steps_per_dispatch == 1:
        return Prefetched(train_step, dataset, mesh, key=key, seed=seed, first=first)
    assert resident is not None  # `build.job` has refused it before training
    return OnDevice(train_step, resident, mesh, key=key, seed=seed, steps=steps_per_dispatch)
