"""Which images are compared: those of the target, a run's samples among them, and the reference."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from commands import config_file, image_sets, pipeline
from commands.diffusers_folder import is_diffusers_folder
from commands.evaluate_request import EvaluateRequest
from commands.image_sets import ImageSet
from diffusion import metrics
from diffusion.data import BY_NAME, DatasetConfig
from diffusion.run import checkpoint
from diffusion.sharding import Mesh

MOST_IMAGES = 50_000
"""Images that are drawn of a run unless the command says how many: the number of the papers."""


@dataclass(frozen=True, eq=False)
class Reference:
    """What images are compared with.

    Attributes:
      name: what messages call it.
      images: its images, or None.
      held_out: images of the same kind that training does not see, or None.
      statistics: of a file, where there are no images.
      num_classes: of the images, or None.
    """

    name: str
    images: ImageSet | None = None
    held_out: ImageSet | None = None
    statistics: metrics.FeatureStatistics | None = None
    num_classes: int | None = None


def reference_of(request: EvaluateRequest) -> Reference:
    """Opens the reference of the command line, or the run's own training data.

    Raises:
      OSError, ValueError: it cannot be read, or there is none.
    """
    named = request.reference
    if named is None:
        if not can_be_sampled(request.target) or is_diffusers_folder(request.target):
            raise ValueError(
                f"{request.target} is no run, so its training data is not known; give --reference."
            )
        recipe = config_file.from_json(checkpoint.read_config(request.target))
        return of_dataset(f"the training data ({type(recipe.data).__name__})", recipe.data)
    data = _dataset(named)
    if data is not None:
        return of_dataset(named, data)
    if named.endswith(".npz") and metrics.holds_statistics(Path(named)):
        return Reference(named, statistics=metrics.FeatureStatistics.load(Path(named)))
    return Reference(named, images=image_sets.of_files(named))


def _dataset(name: str) -> DatasetConfig | None:
    """The dataset of a name, or None if it has none."""
    if name not in BY_NAME:
        return None
    if Path(name).exists():
        raise ValueError(
            f"{name} is a dataset, and a file or folder here; give the folder by its full path "
            f"{Path(name).absolute()}, or call this from another folder."
        )
    return BY_NAME[name]()


def of_dataset(name: str, data: Any) -> Reference:
    """A dataset as the reference, with its held-out examples if it has some.

    Args:
      data: the dataset's configuration.
    """
    if any(item.name == "labelled" for item in dataclasses.fields(data)):
        data = dataclasses.replace(data, labelled=True)  # for the classifier of --features self
    held_out = getattr(data, "held_out", None)
    return Reference(
        name,
        images=image_sets.of_dataset(name, data),
        held_out=None if held_out is None else image_sets.of_dataset(f"{name}, held out", held_out),
        num_classes=data.num_classes,
    )


def targets(request: EvaluateRequest, reference: Reference) -> list[ImageSet]:
    """The images to measure: one set for each seed of a run, or those of a dataset or files.

    Raises:
      OSError, ValueError: they cannot be read, or are fewer than --num-images.
    """
    folder, sampling = request.target, request.sampling
    data = _dataset(str(folder))
    if data is None and can_be_sampled(folder):
        trained = pipeline.read(folder, sampling.step, sampling.ema)
        trained = dataclasses.replace(trained, sampling=sampling.sampling(trained.sampling))
        trained.check()
        default = reference.images.count if reference.images else MOST_IMAGES
        count = request.num_images or min(default, MOST_IMAGES)
        trained = pipeline.with_conditions(trained, count=count)
        seeds = range(sampling.seed, sampling.seed + request.seeds)
        size = rounded(sampling.batch_size)
        return [
            image_sets.of_samples(trained, folder, seed=seed, count=count, batch_size=size)
            for seed in seeds
        ]
    if request.seeds > 1:
        raise ValueError(f"--seeds {request.seeds}: {folder} is no run; its images are drawn.")
    if data is not None:
        found = image_sets.of_dataset(str(folder), data)
    else:
        channels = 3 if reference.images is None else reference.images.shape[-1]
        found = image_sets.of_files(str(folder), channels)
    if request.num_images is None:
        return [found]
    if request.num_images > found.count:
        raise ValueError(f"--num-images {request.num_images}: {folder} has {found.count} images.")
    return [found.first(request.num_images)]


def can_be_sampled(folder: Path) -> bool:
    """Whether it is the folder of a run or of diffusers, and not one of images."""
    return any((folder / name).is_file() for name in ("config.json", "model_index.json"))


def rounded(batch_size: int) -> int:
    """The batch size, rounded up to a multiple of the devices."""
    devices = Mesh().make().size
    return -(-batch_size // devices) * devices
