"""The fields of a recipe.

Classes (which sampler, which optimiser) are chosen in a recipe's file; numbers can also be set on
the command line. A recipe states each fact once: a field that is None takes its value from the
field that states the fact, and `resolved()` fills it in.
"""

from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Any

import numpy as np

import unet_flax
from diffusion import conditions
from diffusion.data import AnyDataset
from diffusion.denoiser import EDM, Preconditioning
from diffusion.noise.distributions import (
    ImportanceSampled,
    LogitNormal,
    LogNormal,
    Stratified,
    UniformTime,
)
from diffusion.noise.schedules import Schedule
from diffusion.ranges import demand
from diffusion.sampling.grids import Karras
from diffusion.sampling.samplers import Heun, Sampler
from diffusion.sampling.vp_timesteps import Grid
from diffusion.sharding import Mesh
from diffusion.training.augment import Augment, Unchanged
from diffusion.training.coupling import Coupling, Independent
from diffusion.training.ema import EMA, Average
from diffusion.training.loss import LossUncertainty, NoUncertainty, Simple, Weighting
from diffusion.training.optimizers import Optimizer
from diffusion.training.variance import FixedVariance, Variance
from unet_flax import Model

TrainingNoise = LogNormal | LogitNormal | UniformTime | Stratified | ImportanceSampled


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
        _positive(self, "num_steps", "log_every_steps", "save_every_steps", "sample_every_steps")
        _positive(self, "num_samples", "keep_checkpoints", "accumulate")
        if self.evaluate_images < 2:
            raise ValueError(f"evaluate_images={self.evaluate_images} must be 2 or more.")
        for name in ("keep_every_steps", "steps_per_dispatch", "evaluate_every_steps"):
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
      sampler: the sampler.
      grid: the noise levels at which it steps.
      num_steps: steps of the sampler.
      guidance: scale of classifier-free guidance to the class or text; 1 is none.
      image_guidance: scale of guidance to the conditioning image; 1 is none.
      clip_x_0: whether every estimate of the clean image is clipped to [-1, 1].
    """

    sampler: Sampler = field(default_factory=Heun)
    grid: Grid = field(default_factory=Karras)
    num_steps: int = 18
    guidance: float = 1.0
    image_guidance: float = 1.0
    clip_x_0: bool = False

    def __post_init__(self):
        _positive(self, "num_steps")
        demand("(-inf, inf)", guidance=self.guidance, image_guidance=self.image_guidance)

    def check_guidance(self, trains_null: frozenset[str]) -> None:
        """Raises a ValueError for guidance to what was never left out in training.

        Args:
          trains_null: the conditions whose null the network learns.
        """
        if self.guidance != 1 and not trains_null & {"label", *conditions.TEXTS}:
            raise ValueError(
                f"guidance={self.guidance} needs a network that was trained with classes and "
                "label_dropout above 0, or with texts and text_dropout above 0; use 1."
            )
        if self.image_guidance != 1 and not trains_null & {*conditions.IMAGES}:
            raise ValueError(
                f"image_guidance={self.image_guidance} needs a network that was trained with "
                "conditioning images and condition_dropout above 0; use 1."
            )


@dataclass(frozen=True)
class Recipe:
    """A whole training run.

    Attributes:
      schedule: sigma as a function of time, for all parts that use a schedule: the noise
        distribution in training, the network's timesteps, the sampling grid. None if no part does.
      label_dropout: fraction of labels replaced by the null class in training, in [0, 1];
        classifier-free guidance needs it above 0, such as 0.1.
      text_dropout: the same for texts.
      condition_dropout: the same for conditioning images; half of these lose their text too, where
        text_dropout is equal.
    Raises:
      ValueError: two fields contradict each other, or a field is None and no other states its
        value.
    """

    run: Run
    data: AnyDataset
    model: Model
    optimizer: Optimizer
    schedule: Schedule | None = None
    preconditioning: Preconditioning = field(default_factory=EDM)
    noise: TrainingNoise = field(default_factory=LogNormal)
    weighting: Weighting = field(default_factory=Simple)
    variance: Variance = field(default_factory=FixedVariance)
    uncertainty: LossUncertainty = field(default_factory=NoUncertainty)
    coupling: Coupling = field(default_factory=Independent)
    augment: Augment = field(default_factory=Unchanged)
    ema: Average = field(default_factory=EMA)
    sampling: Sampling = field(default_factory=Sampling)
    mesh: Mesh = field(default_factory=Mesh)
    label_dropout: float = 0.0
    text_dropout: float = 0.0
    condition_dropout: float = 0.0

    def __post_init__(self):
        demand("[0, 1]", label_dropout=self.label_dropout, text_dropout=self.text_dropout)
        demand("[0, 1]", condition_dropout=self.condition_dropout)
        if self.data.batch_size < 1:
            raise ValueError(f"data.batch_size={self.data.batch_size} must be 1 or more.")
        if self.data.batch_size % self.run.accumulate:
            raise ValueError(
                f"run.accumulate={self.run.accumulate} does not divide data.batch_size="
                f"{self.data.batch_size}."
            )
        last_step = self.optimizer.last_step
        if last_step is not None and self.run.num_steps > last_step:
            raise ValueError(
                f"run.num_steps={self.run.num_steps} is beyond optimizer.decay_steps={last_step}, "
                "where the learning rate is 0; for a longer run, start with a larger "
                "optimizer.decay_steps."
            )
        model = self.resolved_parts()["model"]
        if self.label_dropout and model.num_classes and not model.has_null:
            raise ValueError(
                f"label_dropout={self.label_dropout} needs model.label.has_null=true, "
                "or use a label_dropout of 0."
            )
        self.sampling.check_guidance(self.trains_null)
        if self.sampling.sampler.needs_variance and self.variance.outputs == 1:
            raise ValueError(
                f"sampling.sampler={self.sampling.sampler} takes a learned variance, but variance="
                f"{self.variance} learns none; use an interpolation in [0, 1], or LearnedVariance."
            )

    @property
    def trains_null(self) -> frozenset[str]:
        """The conditions whose null the network learns, which guidance needs."""
        dropouts = {
            "label": self.label_dropout,
            **dict.fromkeys(conditions.TEXTS, self.text_dropout),
            **dict.fromkeys(conditions.IMAGES, self.condition_dropout),
        }
        given = self.data.spec.keys()
        return frozenset(name for name, rate in dropouts.items() if rate > 0 and name in given)

    def resolved(self) -> "Recipe":
        """The recipe with all fields that are None filled in from other fields.

        The parts' schedules come from the recipe's schedule; the network's image size, channels,
        classes and conditions from the data; the number of its outputs from the variance; the width
        of its augmentation label from the augmentation; the weighting's sigma_data from the
        preconditioning.
        """
        return replace(self, **self.resolved_parts())

    def resolved_parts(self) -> dict[str, Any]:
        """The fields that `resolved` fills in.

        Raises:
          ValueError: a field contradicts the one that it would be filled from, or that one is None
            too.
        """
        parts: dict[str, Any] = {
            name: _on_schedule(getattr(self, name), self.schedule, name)
            for name in ("preconditioning", "noise", "variance", "sampling")
        }
        if self.schedule is not None and not any(map(_has_schedule, parts.values())):
            raise ValueError(
                "schedule is set, but neither preconditioning, noise, variance nor sampling.grid "
                "uses one; "
                "leave it out."
            )
        model = _fitted(self.model, self.data, self.augment, self.variance)
        weighting = _with_sigma_data(self.weighting, self.preconditioning)
        return parts | {"model": model, "weighting": weighting}


def _positive(owner: Any, *names: str) -> None:
    for name in names:
        if getattr(owner, name) < 1:
            raise ValueError(f"{name}={getattr(owner, name)} must be 1 or more.")


def _on_schedule(part: Any, schedule: Schedule | None, name: str) -> Any:
    """Sets all fields named `schedule` in a part, at any depth, to the recipe's schedule."""
    changes = {}
    for item in fields(part):
        value, where = getattr(part, item.name), f"{name}.{item.name}"
        if item.name == "schedule" or isinstance(value, Schedule):
            if value is None and schedule is None:
                raise ValueError(f"{where} is None, and the recipe has no schedule; set one.")
            if None not in (value, schedule) and value != schedule:
                raise ValueError(
                    f"{where}={value} contradicts the recipe's schedule={schedule}; leave it out."
                )
            changes[item.name] = schedule if value is None else value
        elif is_dataclass(value):
            changes[item.name] = _on_schedule(value, schedule, where)
    return replace(part, **changes)


def _has_schedule(part: Any) -> bool:
    return any(
        item.name == "schedule"
        or isinstance(value, Schedule)
        or (is_dataclass(value) and _has_schedule(value))
        for item in fields(part)
        for value in [getattr(part, item.name)]
    )


def _fitted(model: Model, data: AnyDataset, augment: Augment, variance: Variance) -> Model:
    """The network with the shapes of this data filled in, after checking that both agree."""
    if "image" not in data.spec:
        raise ValueError(f"the data gives {', '.join(sorted(data.spec))}, but no image.")
    *size, channels = data.spec["image"].shape
    given = {name: value.shape for name, value in data.spec.items() if name != "image"}
    if augment.label_channels is not None:
        given["augment_label"] = (augment.label_channels,)
    last_axis = {name: shape[-1] for name, shape in given.items() if shape}
    model = unet_flax.fitted(
        model,
        image_size=tuple(size),
        in_channels=channels,
        num_classes=data.num_classes,
        augment_channels=last_axis.get("augment_label"),
        context_channels=last_axis.get("context"),
        condition_channels=last_axis.get("condition"),
        text_size=_text_size(data),
        outputs=variance.outputs,
    )
    if model.image_shape != data.spec["image"].shape:
        raise ValueError(
            f"the images are {data.spec['image'].shape} (height, width, channels), but the model "
            f"takes {model.image_shape}; set image_size and in_channels to none."
        )
    if model.output_channels != variance.outputs * channels:
        raise ValueError(
            f"out_channels={model.output_channels}, but the images have {channels} channels and "
            f"variance={type(variance).__name__} needs {variance.outputs} outputs for each; use "
            "none, and LearnedVariance for twice the channels of the images."
        )
    for name in model.inputs.keys() - given.keys() - {"context_mask"}:  # without, all tokens count
        raise ValueError(
            f"the model takes {name}, which neither the data nor the augmentation "
            f"{type(augment).__name__} provides; they provide "
            f"{', '.join(['image', *sorted(given)])}."
        )
    for name, shape in given.items():
        wanted = model.inputs.get(name)
        dtype = np.dtype(data.spec[name].dtype) if name in data.spec else np.dtype(np.float32)
        kinds = {"label": "iu", "text": "iu", "context_mask": "b"}.get(name, "f")
        if dtype.kind not in kinds:
            raise ValueError(f"the data gives {name} as {dtype}; scale it to float32.")
        if wanted is None or len(wanted) != len(shape):
            raise ValueError(f"the data has {name} {shape}, which the model does not take.")
        if any(w not in (None, n) for w, n in zip(wanted, shape, strict=True)):
            raise ValueError(f"the data has {name} {shape}, but the model takes {wanted}.")
    if {"condition", "x_0_hat"} & given.keys() and not augment.keeps_conditions_aligned:
        raise ValueError(
            f"augment={type(augment).__name__} changes images but not their conditions; use Flip "
            "or Unchanged."
        )
    return model


def _text_size(data: AnyDataset) -> tuple[int, int] | None:
    """Number of different tokens, and tokens of a text; None for data without texts."""
    if "text" not in data.spec:
        return None
    (num_tokens,) = data.spec["text"].shape
    return data.vocab_size, num_tokens  # pyright: ignore[reportAttributeAccessIssue]


def _with_sigma_data(weighting: Weighting, preconditioning: Preconditioning) -> Weighting:
    if not hasattr(weighting, "sigma_data"):
        return weighting
    own, stated = (getattr(part, "sigma_data", None) for part in (weighting, preconditioning))
    if own is None and stated is None:
        raise ValueError(
            "weighting.sigma_data is None, and the preconditioning has no sigma_data; set one."
        )
    if None not in (own, stated) and own != stated:
        raise ValueError(
            f"weighting.sigma_data={own} contradicts preconditioning.sigma_data={stated}; leave it "
            "out."
        )
    return replace(weighting, sigma_data=stated if own is None else own)
