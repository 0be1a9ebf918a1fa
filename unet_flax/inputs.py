"""Checks what a network is called with against its configuration, wherever shapes can be seen."""

from typing import Any

import numpy as np
from jax.core import Tracer

from unet_flax.embeddings import check_label
from unet_flax.rules import array_like, or_none

FIELDS = dict(
    label="num_classes",
    augment_label="augment_channels",
    context="context_channels",
    context_mask="context_channels",
    text="text",
    condition="condition_channels",
    x_0_hat="self_conditioning",
)
"""The field of the configuration that makes a network take an input."""


def check_call(config: Any, x: Any, c_noise: Any, given: dict[str, Any]) -> None:
    """Checks the arguments of a call.

    Args:
      config: of the network; its `inputs` say what the network takes, see `unet_flax.model`.
      x: noisy images.
      c_noise: noise level of each image.
      given: the further inputs by name; None where one is left out.
    Raises:
      ValueError: an argument is no array, has another shape than the network takes, is missing, or
        is none of the network's inputs; a label that is no class, where its values can be seen.
    """
    x, c_noise = array_like("x", x), array_like("c_noise", c_noise)
    given = {name: or_none(array_like)(name, value) for name, value in given.items()}
    if x.shape[1:] != config.image_shape:
        raise ValueError(
            f"images of (size, channels) {x.shape[1:]} do not fit this network, which takes "
            f"{config.image_shape}; set image_size and in_channels in its {_kind(config)}."
        )
    batch, context = x.shape[0], given.get("context")
    tokens = None if context is None or len(context.shape) < 2 else context.shape[1]
    for name, array in given.items():
        shape = config.inputs.get(name)
        if shape is None and array is not None:
            raise ValueError(
                f"{name} is given to a network that does not take it; set {FIELDS[name]} in its "
                f"{_kind(config)}."
            )
        if shape is None or (array is None and name == "label"):  # check_label says what is missing
            continue
        if array is None and name not in config.optional_inputs:
            field = FIELDS[name]
            raise ValueError(
                f"{name} is missing: this network has {field}={getattr(config, field)}."
            )
        taken = (batch, *(tokens if length is None else length for length in shape))
        if array is not None and array.shape != taken:
            raise ValueError(
                f"{name} of shape {array.shape} does not fit: for these images this network takes "
                f"{taken}."
            )
    if c_noise.shape != (batch,):
        raise ValueError(
            f"c_noise of shape {c_noise.shape} is not one level for each image, ({batch},)."
        )
    if config.num_classes is not None:
        check_label(given.get("label"), config.num_classes, has_null=config.has_null)
    text = given.get("text")
    if text is not None and not np.issubdtype(text.dtype, np.integer):
        raise ValueError(f"text of type {text.dtype} is no tokens; use whole numbers.")
    context_mask = given.get("context_mask")
    if context_mask is not None and context is None:
        raise ValueError("context_mask is given without a context; give both, or neither.")
    if context_mask is not None and not isinstance(context_mask, Tracer):
        if not np.asarray(context_mask).any(1).all():
            raise ValueError(
                "context_mask leaves an image no token to attend to; keep one of each."
            )


def _kind(config: Any) -> str:
    return type(config).__name__
