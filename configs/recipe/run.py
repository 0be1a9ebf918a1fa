"""How a run goes on: its length, its seed, and when it writes."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Run:
    """How long to train, and what to log and save.

    Attributes:
      num_steps: optimiser steps.
      seed: seed of initial weights, batches and noise, in 0 .. 2**32 - 1.
      log_every_steps: steps between two lines of metrics.jsonl.
      save_every_steps: steps between two checkpoints.
      sample_every_steps: steps between two grids of samples.
      num_samples: images in a grid of samples.
      evaluate_every_steps: steps between two measurements of samples by their Frechet distance to
        the training data, each of which saves a checkpoint; the best one is kept. none for none.
      evaluate_images: samples of a measurement, >= 2.
      evaluate_features: "self", "efficientnet" or a file of weights; see evaluate.py.
      keep_checkpoints: number of latest checkpoints that are kept.
      keep_every_steps: checkpoints at multiples of this step are kept as well; none for no others.
      max_skipped_steps: a step is skipped if its loss or gradient is not finite; the run stops
        after more skipped steps in a row than this, or if more than half of the last 20 times as
        many steps were skipped.
      accumulate: parts into which a batch is split, computed one after the other to save memory.
      steps_per_dispatch: steps per call of the compiled function; more than 1 keeps the dataset in
        device memory. none is 10 on an accelerator if the dataset takes at most a quarter of its
        memory, else 1.
      tracker: "wandb" or "trackio" to send metrics and samples there too; or none.
    """

    num_steps: int
    seed: int = 0
    log_every_steps: int = 100
    save_every_steps: int = 1000
    sample_every_steps: int = 1000
    num_samples: int = 64
    evaluate_every_steps: int | None = None
    evaluate_images: int = 1000
    evaluate_features: str = "self"
    keep_checkpoints: int = 3
    keep_every_steps: int | None = None
    max_skipped_steps: int = 5
    accumulate: int = 1
    steps_per_dispatch: int | None = None
    tracker: str | None = None

    def __post_init__(self):
        positive(self, "num_steps", "log_every_steps", "save_every_steps", "sample_every_steps")
        positive(self, "num_samples", "keep_checkpoints", "accumulate")
        if self.evaluate_images < 2:
            raise ValueError(f"evaluate_images={self.evaluate_images} must be 2 or more.")
        for name in ("keep_every_steps", "steps_per_dispatch", "evaluate_every_steps"):
            if getattr(self, name) is not None:
                positive(self, name)
        if self.max_skipped_steps < 0:
            raise ValueError(f"max_skipped_steps={self.max_skipped_steps} must be 0 or more.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed} is outside 0 .. 2**32 - 1.")


def check_batches(run: Run, data: Any, optimizer: Any) -> None:
    """Raises a ValueError where run, data and optimiser contradict each other."""
    if data.batch_size < 1:
        raise ValueError(f"data.batch_size={data.batch_size} must be 1 or more.")
    if data.batch_size % run.accumulate:
        raise ValueError(
            f"run.accumulate={run.accumulate} does not divide data.batch_size={data.batch_size}."
        )
    last_step = optimizer.last_step
    if last_step is not None and run.num_steps > last_step:
        raise ValueError(
            f"run.num_steps={run.num_steps} is beyond optimizer.decay_steps={last_step}, where the "
            "learning rate is 0; for a longer run, start with a larger optimizer.decay_steps."
        )


def positive(owner: Any, *names: str) -> None:
    for name in names:
        if getattr(owner, name) < 1:
            raise ValueError(f"{name}={getattr(owner, name)} must be 1 or more.")
