"""Fills in the fields of a recipe that are None, each from the field that states the fact."""

from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

import unet_flax
from diffusion.data import AnyDataset
from diffusion.data.dataset import Spec
from diffusion.denoiser import Preconditioning
from diffusion.noise.schedules import Schedule
from diffusion.training.augment import Augment
from diffusion.training.loss import Weighting
from diffusion.training.variance import Variance
from unet_flax import Model


def on_schedule(part: Any, schedule: Schedule | None, name: str) -> Any:
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
            changes[item.name] = on_schedule(value, schedule, where)
    return replace(part, **changes)


def has_schedule(part: Any) -> bool:
    return any(
        item.name == "schedule"
        or isinstance(value, Schedule)
        or (is_dataclass(value) and has_schedule(value))
        for item in fields(part)
        for value in [getattr(part, item.name)]
    )


def fitted(
    model: Model, data: AnyDataset, spec: Spec, augment: Augment, variance: Variance
) -> Model:
    """The network with the shapes of this data filled in, after checking that both agree."""
    if "image" not in spec:
        raise ValueError(f"the data gives {', '.join(sorted(spec))}, but no image.")
    *size, channels = spec["image"].shape
    given = {name: value.shape for name, value in spec.items() if name != "image"}
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
    if model.image_shape != spec["image"].shape:
        raise ValueError(
            f"the images are {spec['image'].shape} (height, width, channels), but the model "
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
        dtype = np.dtype(spec[name].dtype) if name in spec else np.dtype(np.float32)
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


def with_sigma_data(weighting: Weighting, preconditioning: Preconditioning) -> Weighting:
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
