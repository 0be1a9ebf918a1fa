"""A recipe states each fact once; open fields follow from it, and contradictions are refused."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import configs
import diffusion as dm
from commands import train_request
from configs import Adam, Recipe, Run, Sampling
from diffusion.data import Cifar10, Digits
from unet_flax import EDM2Config, UNetConfig

UNET = UNetConfig(
    image_size=None,
    in_channels=None,
    channels=8,
    channel_mult=(1, 2),
    attention_resolutions=(),
    num_groups=4,
)


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Images of 8x8 with whatever else a test wants a network to be given."""

    given: dict[str, tuple[int, ...]]
    batch_size: int = 8
    num_classes = None

    @property
    def spec(self):
        shapes = {"image": (8, 8, 1), **self.given}
        return {name: jax.ShapeDtypeStruct(s, np.float32) for name, s in shapes.items()}


def recipe(**changes):
    parts = dict(run=Run(num_steps=4), data=Digits(8), model=UNET, optimizer=Adam(1e-3))
    return Recipe(**parts | changes)


def test_noise_preconditioning_and_grid_follow_the_one_schedule():
    options = ["cifar10_ddpm", "--schedule.beta-end", "0.03"]
    resolved = train_request.parse(options).recipe.resolved()
    sigma_max = dm.VPLinear(beta_end=0.03).sigma_max
    assert resolved.noise.quantile(jnp.float32(0.9999)) == pytest.approx(sigma_max)
    assert resolved.sampling.grid(1000)[0] == pytest.approx(sigma_max)
    c_noise = resolved.preconditioning(jnp.full(1, sigma_max)).c_noise
    assert c_noise[0] == pytest.approx(999, abs=1e-3)


def test_a_stratified_distribution_follows_the_schedule_too():
    noise = dm.Stratified(dm.UniformTime())
    resolved = recipe(schedule=dm.VPCosine(s=0.1), noise=noise).resolved()
    assert resolved.noise.noise.schedule == dm.VPCosine(s=0.1)


@pytest.mark.parametrize("model", [UNET, EDM2Config(None, None, 8, (1, 2), head_dim=8)])
@pytest.mark.parametrize(
    ("data", "shape", "num_classes"),
    [
        (Digits(8), (8, 8, 1), 10),
        (Digits(8, labelled=False), (8, 8, 1), None),
        (Cifar10(8, labelled=True), (32, 32, 3), 10),
    ],
)
def test_size_channels_and_classes_are_the_datas(model, data, shape, num_classes):
    model = dataclasses.replace(model, attention_resolutions=())
    filled = recipe(data=data, model=model).resolved().model
    assert filled.image_shape == shape and filled.num_classes == num_classes


def test_the_width_of_the_augmentations_label_is_the_augmentations():
    assert recipe(augment=dm.NonLeaky()).resolved().model.augment_channels == 9
    assert recipe(augment=dm.Flip()).resolved().model.augment_channels is None


def test_the_weightings_sigma_data_is_the_preconditionings():
    parts = dict(preconditioning=dm.EDM(0.7), weighting=dm.EDMWeighting())
    assert recipe(**parts).resolved().weighting == dm.EDMWeighting(0.7)


def test_conditions_of_the_data_open_the_networks_inputs():
    data = Pairs({"condition": (8, 8, 3), "context": (5, 16)})
    model = dataclasses.replace(UNET, attention_resolutions=(4,))
    filled = recipe(data=data, model=model).resolved().model
    assert (filled.condition_channels, filled.context_channels) == (3, 16)


def test_a_resolved_recipe_resolves_to_itself():
    for name in configs.names():
        resolved = configs.load(name).resolved()
        assert resolved.resolved() == resolved


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            dict(schedule=dm.VPLinear(), noise=dm.UniformTime(dm.VE())),
            r"noise.schedule=VE\(.*contradicts the recipe's schedule=VPLinear",
        ),
        (
            dict(schedule=dm.Flow(), sampling=Sampling(grid=dm.VPTimesteps())),
            "Flow.* has no whole timesteps",
        ),
        (
            dict(schedule=dm.Flow(), noise=dm.Stratified(dm.VPCosine())),
            "noise.noise=VPCosine.* contradicts the recipe's schedule=Flow",
        ),
        (dict(preconditioning=dm.Eps()), "preconditioning.schedule is None"),
        (dict(noise=dm.UniformTime()), "noise.schedule is None"),
        (dict(sampling=Sampling(grid=dm.Even())), "sampling.grid.schedule is None"),
        (dict(schedule=dm.VE()), "schedule is set, but neither"),
        (
            dict(preconditioning=dm.EDM(0.7), weighting=dm.EDMWeighting(0.5)),
            "weighting.sigma_data=0.5 contradicts preconditioning.sigma_data=0.7",
        ),
        (
            dict(preconditioning=dm.Score(), weighting=dm.EDMWeighting()),
            "weighting.sigma_data is None",
        ),
        (dict(model=dataclasses.replace(UNET, num_classes=3)), "num_classes=3 does not fit"),
        (
            dict(model=EDM2Config(None, None, 8, (1,), attention_resolutions=(), head_dim=8))
            | dict(augment=dm.NonLeaky()),
            "EDM2Config has no such input",
        ),
        (
            dict(model=dataclasses.replace(UNET, condition_channels=2)),
            "condition_channels=2 does not fit the data",
        ),
        (
            dict(model=dataclasses.replace(UNET, self_conditioning=True)),
            "the model takes x_0_hat, which neither the data nor .* they provide image, label",
        ),
        (dict(data=Pairs({"x_0_hat": (8, 8, 1)})), "x_0_hat .* which the model does not take"),
        (dict(data=Pairs({"depth": (8, 8, 1)})), "depth .* which the model does not take"),
        (
            dict(data=Pairs({"condition": (4, 4, 3)})),
            r"condition \(4, 4, 3\), but the model takes \(8, 8, 3\)",
        ),
        (
            dict(data=Pairs({"condition": (8, 8, 3)}), augment=dm.NonLeaky()),
            "NonLeaky changes images but not their conditions",
        ),
        (dict(label_dropout=0.1, data=Digits(8, labelled=False)) | dict(
            sampling=Sampling(guidance=2.0)), "guidance=2.0 needs a network"),
    ],
)  # fmt: skip
def test_what_contradicts_is_refused_at_construction(changes, says):
    with pytest.raises(ValueError, match=says):
        recipe(**changes)
