"""Converts a recipe to JSON and back: the run's config.json."""

import typing
from typing import Any, cast

import cattrs
from cattrs.strategies import configure_tagged_union

from configs.recipe import AnyRecipe, Recipe, TrainingNoise
from diffusion.data import AnyDataset
from diffusion.denoiser import Preconditioning
from diffusion.noise.distributions import LogitNormal, LogNormal, UniformTime
from diffusion.noise.schedules import Schedule
from diffusion.sampling.samplers import Sampler
from diffusion.sampling.vp_timesteps import Grid
from diffusion.training.augment import Augment
from diffusion.training.coupling import Coupling
from diffusion.training.ema import Average, Averages
from diffusion.training.loss import LossUncertainty, Weighting
from diffusion.training.optimizers import Optimizer
from diffusion.training.variance import Variance
from unet_flax import Model
from unet_flax.embeddings import LabelKind, NoiseFeatures
from unet_flax.resample import Resampling

_converter = cattrs.Converter(forbid_extra_keys=True)


def _is_number_or_tuple(hint: Any) -> bool:
    """Whether a type is a union such as int | tuple[int, ...] | None; dataclasses check those."""
    kinds = {typing.get_origin(kind) or kind for kind in typing.get_args(hint)}
    return bool(kinds & {int, float}) and kinds <= {int, float, tuple, type(None)}


_converter.register_structure_hook_func(
    _is_number_or_tuple, lambda value, hint: tuple(value) if isinstance(value, list) else value
)


def _add_none_or_several(kinds: Any, hint: Any) -> None:
    """Registers `kinds | None` or `kinds | tuple[kinds, ...]`; a dict is read as one of `kinds`."""

    def structure(value: Any, _: Any) -> Any:
        if isinstance(value, dict):
            return _converter.structure(value, kinds)
        return value if value is None else tuple(_converter.structure(v, kinds) for v in value)

    def unstructure(value: Any) -> Any:
        if isinstance(value, tuple):
            return [_converter.unstructure(v, kinds) for v in value]
        return value if value is None else _converter.unstructure(value, kinds)

    _converter.register_structure_hook_func(lambda found: found == hint, structure)
    _converter.register_unstructure_hook_func(lambda found: found == hint, unstructure)


_add_none_or_several(Schedule, Schedule | None)
_add_none_or_several(Resampling, Resampling | tuple[Resampling, ...])
for _union in (
    # a union comes before the unions whose members contain it
    Schedule,
    *(LogNormal | LogitNormal | UniformTime | Schedule, Averages, Average),
    *(NoiseFeatures, LabelKind, Resampling, Model, AnyDataset),
    TrainingNoise,
    *(
        Preconditioning,
        Weighting,
        Variance,
        LossUncertainty,
        Coupling,
        Augment,
        Sampler,
        Grid,
        Optimizer,
    ),
):
    configure_tagged_union(_union, _converter, tag_name="kind")
# runs of earlier versions state no kind
configure_tagged_union(AnyRecipe, _converter, tag_name="kind", default=Recipe)


def to_json(recipe: AnyRecipe) -> dict[str, Any]:
    """A recipe as plain JSON; each choice between kinds carries its "kind".

    Raises:
      ValueError: a kind that no union of the recipe names.
    """
    try:
        return _converter.unstructure(recipe, AnyRecipe)
    except KeyError as error:
        kind = getattr(error.args[0], "__name__", error.args[0])
        raise ValueError(
            f"config.json cannot hold {kind}: no union of configs/recipe names it; add it to "
            "the union of its kind, such as AnyDataset in diffusion/data/__init__.py."
        ) from error


def model_to_json(model: Model) -> dict[str, Any]:
    """A network's configuration as plain JSON, with its "kind"."""
    return _converter.unstructure(model, Model)


def from_json(config: dict[str, Any]) -> AnyRecipe:
    """The recipe that `to_json` wrote.

    Raises:
      ValueError: a field is unknown or has a wrong value; the message names it.
    """
    try:
        return _converter.structure(config, cast(Any, AnyRecipe))
    except Exception as error:  # cattrs nests errors in exception groups
        errors = "; ".join(cattrs.transform_error(error))
        raise ValueError(f"config.json is not a recipe of this version: {errors}.") from error


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turns {"run": {"seed": 0}} into {"run.seed": 0}."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


MAY_CHANGE = (
    "run.num_steps",
    "run.log_every_steps",
    "run.save_every_steps",
    "run.sample_every_steps",
    "run.num_samples",
    "run.evaluate_",
    "run.keep_checkpoints",
    "run.keep_every_steps",
    "run.max_skipped_steps",
    "run.steps_per_dispatch",
    "run.tracker",
    "data.path",
    "data.manual_dir",
    "data.on_error",
    "data.keeps_pixels",
    "data.cache_dir",
    "data.num_workers",
    "latents.autoencoder",  # the run keeps a copy
    "mesh.",
    "sampling.",
)
"""Fields that can change when a run resumes: they affect the weights by rounding at most."""


def differences(stored: AnyRecipe, wanted: AnyRecipe) -> list[str]:
    """The fields that differ and must not, as "field STORED there, WANTED here"."""
    old, new = (flatten(to_json(recipe.resolved())) for recipe in (stored, wanted))
    return [
        f"{name.replace('_', '-')} {old.get(name)} there, {new.get(name)} here"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and not name.startswith(MAY_CHANGE)
    ]
