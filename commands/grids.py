"""The pictures that training draws of a denoiser: samples, or texts with what was drawn of them."""

from functools import lru_cache
from typing import Any

import numpy as np
from jaxtyping import UInt8

import diffusion as dm
from commands import draw, pipeline
from commands.build import Job
from commands.class_labels import class_labels
from commands.pipeline import Pipeline
from diffusion.data import AnyDataset, images
from diffusion.data.arrays import ImageArrays
from diffusion.pixels import to_pixels


def of_job(
    job: Job, state: dm.TrainState
) -> tuple[UInt8[np.ndarray, "height width C"], dict[str, float]]:
    """Samples of seed 0: of all classes, or of fixed texts, held-out ones where there are any.

    Returns:
      the picture, and nothing to log with it.
    Raises:
      FloatingPointError: samples are not finite.
    """
    trained, count = pipeline.of_job(job, state), job.recipe.run.num_samples
    if getattr(job.images, "texts", None) is None:  # few datasets have texts
        trained = pipeline.with_conditions(trained, job.images)
        return images.grid(draw.draw(trained, class_labels(trained, None, count), seed=0)), {}
    examples: Any = held_out(job.recipe.data) or job.images
    return of_examples(trained, examples, examples.first(count), seed=0), {}


def of_examples(
    trained: Pipeline, examples: ImageArrays, index: np.ndarray, *, seed: int
) -> UInt8[np.ndarray, "height width C"]:
    """A cell for each example with a text: the image to edit, if any, the sample, the truth.

    Args:
      index: the examples.
    """
    assert examples.texts is not None
    drawn = of_rows(trained, examples, index, seed=seed)
    rows = examples.rows(index)
    before = [to_pixels(rows["condition"])] if "condition" in rows else []
    columns = [*before, drawn, to_pixels(rows["image"])]
    captions = [examples.texts.captions[i] for i in index.tolist()]
    return images.captioned(np.stack(columns, axis=1), captions)


def of_rows(
    trained: Pipeline, examples: ImageArrays, index: np.ndarray, *, seed: int
) -> UInt8[np.ndarray, "N H W C"]:
    """A sample under the conditions of each example."""
    rows = examples.rows(index)
    trained = pipeline.with_rows(trained, rows)
    labels = rows.get("label", np.full(len(index), -1, np.int32))
    return draw.draw(trained, labels, seed=seed)


@lru_cache(maxsize=1)
def held_out(data: AnyDataset) -> ImageArrays | None:
    """The examples that training does not see, where the dataset has any."""
    config = getattr(data, "held_out", None)
    return None if config is None else config.load()
