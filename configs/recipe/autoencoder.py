"""The fields of a recipe that trains an autoencoder."""

from dataclasses import dataclass, field
from typing import Any

from configs.recipe.run import Run, check_batches
from diffusion.data import AnyDataset
from diffusion.data.dataset import Spec
from diffusion.ranges import demand
from diffusion.sharding import Mesh
from diffusion.training.augment import Augment, Unchanged
from diffusion.training.ema import EMA, Average
from diffusion.training.optimizers import Optimizer
from diffusion.training.reconstruction import (
    AutoencoderNetwork,
    Perceptual,
    make_reconstruction_step,
)
from diffusion.training.update import TrainState, TrainStep
from unet_flax import AutoencoderConfig


@dataclass(frozen=True)
class AutoencoderRecipe:
    """A whole training run of an autoencoder, whose latents other recipes train on.

    Attributes:
      data: images; what else it has is left out.
      model: the autoencoder. The scale and shift of its latents are measured when it is saved.
      kl_weight: weight of the latents' divergence from unit noise, >= 0.
      perceptual_weight: weight of LPIPS in the loss, >= 0; 1 is Stable Diffusion's.
      perceptual_files: files of LPIPS's weights, torchvision's network and lpips's own; see
        docs/features.md. Needed where perceptual_weight is above 0.
    Raises:
      ValueError: two fields contradict each other.
    """

    run: Run
    data: AnyDataset
    model: AutoencoderConfig
    optimizer: Optimizer
    augment: Augment = field(default_factory=Unchanged)
    ema: Average = field(default_factory=EMA)
    mesh: Mesh = field(default_factory=Mesh)
    kl_weight: float = 1e-6
    perceptual_weight: float = 0.0
    perceptual_files: tuple[str, ...] = ()

    def __post_init__(self):
        check_batches(self.run, self.data, self.optimizer)
        demand("[0, inf)", kl_weight=self.kl_weight, perceptual_weight=self.perceptual_weight)
        if self.perceptual_weight > 0 and not self.perceptual_files:
            raise ValueError(
                f"perceptual_weight={self.perceptual_weight} needs perceptual_files, the weights "
                "of LPIPS; see docs/features.md, or use 0."
            )
        *size, channels = self.spec["image"].shape
        if channels != self.model.image_channels:
            raise ValueError(
                f"model.image_channels={self.model.image_channels}, but the images have {channels} "
                "channels; use that number."
            )
        factor = self.model.downsample_factor
        if any(side % factor for side in size):
            raise ValueError(
                f"images of {size[0]} x {size[1]} are not divisible by {factor} = 2**(levels - 1); "
                "use another size, or a shorter model.channel_mult."
            )
        if self.run.evaluate_every_steps is not None:
            raise ValueError(
                f"run.evaluate_every_steps={self.run.evaluate_every_steps} measures samples, which "
                "an autoencoder has none of; use none."
            )

    @property
    def spec(self) -> Spec:
        """The spec of the examples that the network is trained on."""
        return self.data.spec

    @property
    def latents(self) -> None:
        """None: it is trained on images."""
        return None

    def resolved(self) -> "AutoencoderRecipe":
        """The recipe itself: no field takes its value from another."""
        return self

    def check_grid(self) -> None:
        """Nothing to check: an autoencoder is not sampled."""

    def new_state(self, params: Any) -> TrainState:
        """The state before the first step."""
        return TrainState.create(params, self.optimizer.make(), self.ema)

    def make_step(
        self, network: AutoencoderNetwork, perceptual: Perceptual | None = None
    ) -> TrainStep:
        """The training step of a network."""
        return make_reconstruction_step(
            network,
            self.optimizer.make(),
            self.ema,
            kl_weight=self.kl_weight,
            perceptual_weight=self.perceptual_weight,
            perceptual=perceptual,
            augment=self.augment,
            accumulate=self.run.accumulate,
        )

    @staticmethod
    def network_inputs(batch: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of the network beside its parameters, as shapes, for a batch of shapes."""
        return (batch["image"],), {}
