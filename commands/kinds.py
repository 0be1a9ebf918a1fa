"""What differs between the kinds of recipes that `train.py` trains: what is drawn and saved."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import diffusion as dm
from commands import build, grids, reconstructions
from commands.build import Job
from configs import AutoencoderRecipe, Recipe
from diffusion.data import images
from diffusion.run import hosts
from diffusion.run.journal import Journal


@dataclass(frozen=True)
class Kind:
    """A kind of recipe.

    Attributes:
      picture: `picture(job, state) -> (pixels, values)`: the picture of a step, and values to log
        with it; raises a FloatingPointError where something is not finite.
      save: `save(job, state)` writes the averaged weights for other programs; all hosts call it.
    """

    picture: Callable[[Job, dm.TrainState], tuple[Any, dict[str, float]]]
    save: Callable[[Job, dm.TrainState], None]


KINDS: dict[type, Kind] = {
    Recipe: Kind(grids.of_job, build.save_weights),
    AutoencoderRecipe: Kind(reconstructions.of_job, reconstructions.save),
}


def draw_due(job: Job, journal: Journal, state: dm.TrainState) -> None:
    """Draws the picture of a step if one is due and missing; reports what is not finite."""
    step = int(state.step)
    if not build.is_grid_due(job.recipe.run, step):
        return
    is_missing = not (job.run_dir / "samples" / f"{step}.png").exists()
    if not images.can_be_png(build.image_shape(job.recipe)) or not hosts.any_host(is_missing):
        return
    try:
        picture, values = KINDS[type(job.recipe)].picture(job, state)
    except FloatingPointError as error:
        return hosts.print_on_main(f"step {step}: no grid of samples: {error}")
    journal.samples(step, picture)
    if values:
        journal.metrics(step, values)
        shown = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
        hosts.print_on_main(f"step {step}: {shown}")


def save(job: Job, state: dm.TrainState) -> None:
    """Writes the averaged weights for other programs; all hosts must call it."""
    KINDS[type(job.recipe)].save(job, state)
