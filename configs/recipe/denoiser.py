"""The fields of a recipe that trains a denoiser.

Classes (which sampler, which optimiser) are chosen in a recipe's file; numbers can also be set on
the command line. A recipe states each fact once: a field that is None takes its value from the
field that states the fact, and `resolved()` fills it in.
"""

from dataclasses import dataclass, field, replace
from typing import Any

import jax
import numpy as np

from configs.recipe.resolution import fitted, has_schedule, on_schedule, with_sigma_data
from configs.recipe.run import Run, check_batches, positive
from diffusion import conditions
from diffusion.data import AnyDataset
from diffusion.data.dataset import Spec
from diffusion.data.latents import Latents
from diffusion.denoiser import EDM, Network, Preconditioning
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
from diffusion.training.step import make_train_step
from diffusion.training.update import TrainState, TrainStep
from diffusion.training.variance import FixedVariance, Variance
from unet_flax import Model

TrainingNoise = LogNormal | LogitNormal | UniformTime | Stratified | ImportanceSampled


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
        positive(self, "num_steps")
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
    """A whole training run of a denoiser.

    Attributes:
      schedule: sigma as a function of time, for all parts that use a schedule: the noise
        distribution in training, the network's timesteps, the sampling grid. None if no part does.
      label_dropout: fraction of labels replaced by the null class in training, in [0, 1];
        classifier-free guidance needs it above 0, such as 0.1.
      text_dropout: the same for texts.
      condition_dropout: the same for conditioning images; half of these lose their text too, where
        text_dropout is equal.
      latents: the autoencoder whose latents the network works on; None for the images themselves.
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
    latents: Latents | None = None

    def __post_init__(self):
        demand("[0, 1]", label_dropout=self.label_dropout, text_dropout=self.text_dropout)
        demand("[0, 1]", condition_dropout=self.condition_dropout)
        check_batches(self.run, self.data, self.optimizer)
        if self.latents is not None and self.augment != Unchanged():
            raise ValueError(
                f"augment={type(self.augment).__name__} would change latents, which are encoded "
                "once; use Unchanged."
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
        given = self.spec.keys()
        return frozenset(name for name, rate in dropouts.items() if rate > 0 and name in given)

    @property
    def spec(self) -> Spec:
        """The spec of the examples that the network is trained on."""
        return self.data.spec if self.latents is None else self.latents.spec(self.data.spec)

    def check_grid(self) -> None:
        """Raises a ValueError if the sampling grid does not allow this number of steps.

        Not checked at construction: it needs a device, which many hosts must not ask for before
        they have joined.
        """
        sampling = self.resolved().sampling
        sampling.grid(sampling.num_steps)

    def new_state(self, params: Any) -> TrainState:
        """The state before the first step."""
        resolved = self.resolved()
        project = resolved.model.project
        params = params if project is None else project(params)
        return TrainState.create(
            params, self.optimizer.make(), self.ema, self.uncertainty, resolved.noise
        )

    def make_step(self, network: Network) -> TrainStep:
        """The training step of a network."""
        resolved = self.resolved()
        return make_train_step(
            network,
            resolved.preconditioning,
            resolved.noise,
            self.optimizer.make(),
            self.ema,
            weighting=resolved.weighting,
            variance=resolved.variance,
            uncertainty=self.uncertainty,
            coupling=self.coupling,
            label_dropout=self.label_dropout,
            text_dropout=self.text_dropout,
            condition_dropout=self.condition_dropout,
            augment=self.augment,
            accumulate=self.run.accumulate,
            project=resolved.model.project,
        )

    @staticmethod
    def network_inputs(batch: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of the network beside its parameters, as shapes, for a batch of shapes."""
        cond = {name: shape for name, shape in batch.items() if name != "image"}
        image = batch["image"]
        return (image, jax.ShapeDtypeStruct(image.shape[:1], np.float32)), cond

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
            name: on_schedule(getattr(self, name), self.schedule, name)
            for name in ("preconditioning", "noise", "variance", "sampling")
        }
        if self.schedule is not None and not any(map(has_schedule, parts.values())):
            raise ValueError(
                "schedule is set, but neither preconditioning, noise, variance nor sampling.grid "
                "uses one; "
                "leave it out."
            )
        model = fitted(self.model, self.data, self.spec, self.augment, self.variance)
        weighting = with_sigma_data(self.weighting, self.preconditioning)
        return parts | {"model": model, "weighting": weighting}
