"""Measures a run's samples while it trains, by their Frechet distance to its training data."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import diffusion as dm
from commands import compared_images, evaluation, image_sets, pipeline
from commands.build import Job
from commands.compared_images import Reference
from commands.evaluate_request import EvaluateRequest
from commands.evaluation import Describe
from commands.measures import Described
from configs.recipe import Run
from diffusion import metrics
from diffusion.run import best, hosts
from diffusion.run.journal import Journal


@dataclass(frozen=True, eq=False)
class Judge:
    """What the samples of a run are compared with.

    Attributes:
      job: the run.
      describe: gives the features of its samples, which are kept in the run's folder meanwhile.
      real: the features of its training data.
    """

    job: Job
    describe: Describe
    real: Described

    def distance(self, state: dm.TrainState) -> float:
        """The Frechet distance of samples of the first average, from seed 0.

        Raises:
          FloatingPointError: samples are not finite.
        """
        job, run = self.job, self.job.recipe.run
        trained = pipeline.of_job(job, state)
        trained = pipeline.with_conditions(trained, job.images, run.evaluate_images)
        images = image_sets.of_samples(
            trained, job.run_dir, seed=0, count=run.evaluate_images, batch_size=_batch_size(run)
        )
        found = self.describe(images).statistics
        if hosts.is_main():
            shutil.rmtree(_folder(job), ignore_errors=True)
        return metrics.frechet_distance(found, self.real.statistics)


BATCH_SIZE = 256
"""Images that are drawn and described at a time, at most."""

NAME = "the training data"


def of_job(job: Job) -> Judge | None:
    """The run's judge; None if the run is not measured.

    Raises:
      OSError, ValueError: the weights of the features cannot be read, or `self` has no classes.
    """
    run = job.recipe.run
    if run.evaluate_every_steps is None:
        return None
    data, needs_classes = job.recipe.data, run.evaluate_features == "self"
    if needs_classes and "label" not in job.images.spec:
        reference = compared_images.of_dataset(NAME, data)  # loads the classes too
    else:
        images = image_sets.of_loaded(NAME, data, job.images)
        reference = Reference(NAME, images, num_classes=data.num_classes)
    request = EvaluateRequest(job.run_dir, features=run.evaluate_features, metrics=("fd",))
    assert reference.images is not None
    network = evaluation.network_of(request, reference, reference.images)
    size = _batch_size(run)
    real = evaluation.describer(request.cache_dir, network, size)(reference.images)
    return Judge(job, evaluation.describer(_folder(job), network, size), real)


def _batch_size(run: Run) -> int:
    """Images that are drawn and described at a time."""
    return compared_images.rounded(min(BATCH_SIZE, run.evaluate_images))


def _folder(job: Job) -> Path:
    return job.run_dir / ".features"


def is_due(run: Run, step: int) -> bool:
    """Whether the samples are measured at this step."""
    every = run.evaluate_every_steps
    return every is not None and step > 0 and (step % every == 0 or step == run.num_steps)


def measure_due(judge: Judge | None, journal: Journal, state: dm.TrainState) -> None:
    """Logs the distance if it is due and missing; reports if samples are not finite."""
    step = int(state.step)
    if judge is None or not is_due(judge.job.recipe.run, step):
        return
    if not hosts.any_host(step not in best.distances(judge.job.run_dir)):
        return
    try:
        distance = judge.distance(state)
    except FloatingPointError as error:
        hosts.print_on_main(f"step {step}: not measured: {error}")
        return
    journal.metrics(step, {best.KEY: distance})
    hosts.print_on_main(f"step {step}: Frechet distance {distance:.4g}")
