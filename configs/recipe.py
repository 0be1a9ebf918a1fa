"""What a recipe consists of. Kinds are chosen in a recipe's file, numbers on the command line.

A recipe is its own configuration: it is written to the run's config.json and read back from it.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import cattrs
from cattrs.strategies import configure_tagged_union

from diffusion.data import Source
from diffusion.denoiser import EDM, Preconditioning
from diffusion.noise.distributions import LogitNormal, LogNormal, Noise
from diffusion.noise.schedules import Schedule
from diffusion.ranges import demand
from diffusion.sampling.grids import Grid, Karras
from diffusion.sampling.samplers import Heun, Sampler
from diffusion.sharding import Mesh
from diffusion.training.augment import Augment, Unchanged
from diffusion.training.coupling import Coupling, Independent
from diffusion.training.ema import EMA, Average, Averages
from diffusion.training.loss import Balance, Certain, Simple, Weighting
from diffusion.training.optimizers import Optimizer
from unet_flax import UNetConfig
from unet_flax.embeddings import LabelKind, NoiseFeatures
from unet_flax.resample import Resampling


def _positive(owner: Any, *names: str) -> None:
    for name in names:
        if getattr(owner, name) < 1:
            raise ValueError(f"{name}={getattr(owner, name)} must be 1 or more.")


@dataclass(frozen=True)
class Run:
    """How long to train, and what to write down on the way.

    Attributes:
      num_steps: optimiser steps.
      seed: of weights, batches and noise; >= 0.
      log_every_steps: steps between two lines of metrics.jsonl.
      save_every_steps: steps between two checkpoints.
      sample_every_steps: steps between two grids of samples.
      num_samples: images in such a grid.
      keep_checkpoints: how many of the latest checkpoints stay.
      keep_every_steps: of which steps' checkpoints stay besides, or none.
      max_skipped_steps: how many steps in a row may be not finite, and be skipped, before the run
        stops; it also stops where half of the last twenty times as many are.
      accumulate: parts into which a batch is cut, one computed after the other, to save memory.
      steps_per_dispatch: steps that the device takes at once, with the dataset in its memory; none
        is 10 on an accelerator that has room for it four times over, and 1 elsewhere.
      tracker: who else is told of metrics and samples, "wandb" or "trackio"; or none.
    """

    num_steps: int
    seed: int = 0
    log_every_steps: int = 100
    save_every_steps: int = 1000
    sample_every_steps: int = 1000
    num_samples: int = 64
    keep_checkpoints: int = 3
    keep_every_steps: int | None = None
    max_skipped_steps: int = 5
    accumulate: int = 1
    steps_per_dispatch: int | None = None
    tracker: str | None = None

    def __post_init__(self):
        _positive(self, "num_steps", "log_every_steps", "save_every_steps", "sample_every_steps")
        _positive(self, "num_samples", "keep_checkpoints", "accumulate")
        for name in ("keep_every_steps", "steps_per_dispatch"):
            if getattr(self, name) is not None:
                _positive(self, name)
        if self.max_skipped_steps < 0:
            raise ValueError(f"max_skipped_steps={self.max_skipped_steps} must be 0 or more.")
        if not 0 <= self.seed < 2**32:
            raise ValueError(f"seed={self.seed} is outside 0 .. 2**32 - 1.")


@dataclass(frozen=True)
class Sampling:
    """How samples are drawn.

    Attributes:
      sampler: from noise to images.
      grid: the noise levels on the way.
      num_steps: steps of the sampler.
      guidance: scale of classifier-free guidance; 1 is none.
      clip_x_0: whether every estimate of the clean image is kept in [-1, 1].
    """

    sampler: Sampler = field(default_factory=Heun)
    grid: Grid = field(default_factory=Karras)
    num_steps: int = 18
    guidance: float = 1.0
    clip_x_0: bool = False

    def __post_init__(self):
        _positive(self, "num_steps")
        demand("(-inf, inf)", guidance=self.guidance)


@dataclass(frozen=True)
class Recipe:
    """A whole training run.

    Attributes:
      label_dropout: share of labels hidden in training, in [0, 1]; guidance needs some, as 0.1.
    """

    run: Run
    data: Source
    model: UNetConfig
    optimizer: Optimizer
    preconditioning: Preconditioning = field(default_factory=EDM)
    noise: Noise = field(default_factory=LogNormal)
    weighting: Weighting = field(default_factory=Simple)
    balance: Balance = field(default_factory=Certain)
    coupling: Coupling = field(default_factory=Independent)
    augment: Augment = field(default_factory=Unchanged)
    ema: Average = field(default_factory=EMA)
    sampling: Sampling = field(default_factory=Sampling)
    mesh: Mesh = field(default_factory=Mesh)
    label_dropout: float = 0.0

    def __post_init__(self):
        demand("[0, 1]", label_dropout=self.label_dropout)
        if self.data.batch_size < 1:
            raise ValueError(f"data.batch_size={self.data.batch_size} must be 1 or more.")
        if self.data.batch_size % self.run.accumulate:
            raise ValueError(
                f"run.accumulate={self.run.accumulate} does not divide data.batch_size="
                f"{self.data.batch_size}."
            )
        if self.sampling.guidance != 1 and not (self.model.num_classes and self.label_dropout):
            raise ValueError(
                f"guidance={self.sampling.guidance} needs a network that was trained with classes "
                "and with label_dropout above 0; use 1."
            )
        last_step = self.optimizer.last_step
        if last_step is not None and self.run.num_steps > last_step:
            raise ValueError(
                f"run.num_steps={self.run.num_steps} goes beyond optimizer.decay_steps="
                f"{last_step}, where the learning rate is 0; a longer run needs a larger "
                "optimizer.decay_steps from its beginning."
            )


_converter = cattrs.Converter(forbid_extra_keys=True)
for _union in (
    # those first that others hold
    *(Schedule, LogNormal | LogitNormal | Schedule, Averages, Average),
    *(
        Source,
        Preconditioning,
        Noise,
        Weighting,
        Balance,
        Coupling,
        Augment,
        Sampler,
        Grid,
        Optimizer,
    ),
    *(NoiseFeatures, LabelKind, Resampling),
):
    configure_tagged_union(_union, _converter, tag_name="kind")
_converter.register_structure_hook_func(
    lambda hint: hint == int | tuple[int, ...],
    lambda value, hint: value if isinstance(value, int) else tuple(value),
)

to_json: Callable[[Recipe], dict[str, Any]] = _converter.unstructure
"""A recipe as plain JSON; each choice between kinds carries its "kind"."""


def from_json(config: dict[str, Any]) -> Recipe:
    """The recipe that `to_json` wrote.

    Raises:
      ValueError: names what does not belong.
    """
    try:
        return _converter.structure(config, Recipe)
    except Exception as error:  # cattrs nests what it found in exception groups
        found = "; ".join(cattrs.transform_error(error))
        raise ValueError(f"config.json describes no recipe of this version: {found}.") from error


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"run": {"seed": 0}} to {"run.seed": 0}."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


FREE = (
    "run.num_steps",
    "run.log_every_steps",
    "run.save_every_steps",
    "run.sample_every_steps",
    "run.num_samples",
    "run.keep_checkpoints",
    "run.keep_every_steps",
    "run.max_skipped_steps",
    "run.steps_per_dispatch",
    "run.tracker",
    "data.path",
    "data.manual_dir",
    "mesh.",
    "sampling.",
)
"""Fields that may differ when a run goes on: how many steps, and what changes no weight.

Other devices or steps a dispatch round differently: the same weights, but not to the last bit.
"""


def differences(stored: Recipe, wanted: Recipe) -> list[str]:
    """Which fields of two recipes contradict each other, as "field: stored, wanted"."""
    old, new = flatten(to_json(stored)), flatten(to_json(wanted))
    return [
        f"{name.replace('_', '-')} {old.get(name)} there, {new.get(name)} here"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and not name.startswith(FREE)
    ]
