"""How batches reach the devices: fetched ahead one by one, or chosen there from a whole dataset.

Either way batch k is the same function of (seed, k), and `feed.run(state, first, last)` takes the
steps first + 1 .. last.
"""

import queue
import threading
from collections.abc import Generator
from functools import partial
from typing import Any

import jax
import numpy as np

from diffusion import sharding
from diffusion.data import ImageArrays
from diffusion.run.meter import Measured
from diffusion.training.step import TrainState, TrainStep, make_train_steps

AHEAD = 2
"""Batches that wait on the device."""


class Streamed:
    """A batch a step, put on the devices by a thread while earlier steps run.

    Args:
      train_step: takes one step.
      key: the run's.
      seed: of the order of the images.
      first: steps that are done already.
    """

    steps = 1  # in a dispatch

    def __init__(
        self,
        train_step: TrainStep,
        dataset: ImageArrays,
        mesh: jax.sharding.Mesh,
        *,
        key: Any,
        seed: int,
        first: int,
    ):
        self._train_step, self._key = train_step, key
        self._batches = ahead(dataset, mesh, seed, first)

    def run(self, state: TrainState, first: int, last: int) -> tuple[TrainState, list[Measured]]:
        """The state after step `last`, and the metrics of each step."""
        metrics = []
        for _ in range(first, last):
            state, measured = self._train_step(state, next(self._batches), self._key)
            metrics.append((measured, 1))
        return state, metrics

    def close(self) -> None:
        self._batches.close()


def ahead(
    dataset: ImageArrays, mesh: jax.sharding.Mesh, seed: int, first: int
) -> Generator[dict[str, jax.Array], None, None]:
    """Batches from number `first` on, for ever."""
    waiting: queue.Queue[Any] = queue.Queue(AHEAD)
    is_over = threading.Event()

    def put(item: Any) -> None:
        while not is_over.is_set():
            try:
                return waiting.put(item, timeout=0.1)
            except queue.Full:
                pass

    def work() -> None:
        step = first
        try:
            while not is_over.is_set():
                rows = partial(dataset.batch, seed, step)
                put(sharding.shard_rows(mesh, dataset.batch_size, rows))
                step += 1
        except Exception as error:  # it belongs to who asks for the batch
            put(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item = waiting.get()
            if isinstance(item, Exception):
                raise item
            yield item
    finally:
        is_over.set()
        thread.join()


class Resident:
    """The whole dataset on every device, and several steps a dispatch.

    Args:
      steps: in a dispatch, at most.
    """

    def __init__(
        self,
        train_step: TrainStep,
        dataset: ImageArrays,
        mesh: jax.sharding.Mesh,
        *,
        key: Any,
        seed: int,
        steps: int,
    ):
        self._train_steps, self._key, self._mesh = make_train_steps(train_step), key, mesh
        self._dataset, self._seed, self.steps = dataset, seed, steps
        arrays: dict[str, np.ndarray] = {"image": dataset.pixels}
        if dataset.labels is not None:
            arrays["label"] = dataset.labels.astype(np.int32)
        self._arrays = sharding.on_every_device(mesh, arrays)

    def run(self, state: TrainState, first: int, last: int) -> tuple[TrainState, list[Measured]]:
        """The state after step `last`, and the metrics of each dispatch."""
        metrics = []
        while first < last:
            steps = min(self.steps, last - first)
            # those beyond are of a fixed shape's sake
            indices = [self._dataset.indices(self._seed, first + i) for i in range(self.steps)]
            chosen = sharding.shard_indices(self._mesh, np.stack(indices))
            count = np.int32(steps)
            state, measured = self._train_steps(state, self._arrays, chosen, count, self._key)
            metrics.append((measured, steps))
            first += steps
        return state, metrics

    def close(self) -> None:
        pass


Feed = Streamed | Resident
