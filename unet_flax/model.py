"""The union of network configurations, and how networks are made of them.

    config = unet_flax.fitted(recipe_config, image_size=(64, 96), in_channels=3, num_classes=10)
    unet = unet_flax.make(config, nnx.Rngs(0))
    network, params = unet_flax.functional(unet)

Code that uses networks never asks for the class of a configuration: all have these properties.

    image_shape      (*spatial sizes, in_channels), such as (32, 32, 3)
    output_channels  channels of the output
    num_classes      number of classes, or None
    has_null         whether label -1 is the null class
    dtype            type in which the network computes, "float32" or "bfloat16"
    remat            whether blocks are computed again in the backward pass
    inputs           what the network takes beside x and c_noise: name -> shape for one image
    optional_inputs  those of `inputs` that may be left out
    project          what runs on the parameters after each update of training, or None

A configuration may leave open what the data decides: image_size=None, in_channels=None,
num_classes=None, augment_channels=None, context_channels=None, condition_channels=0,
text=TextEncoderConfig(vocab_size=None, num_tokens=None).
"""

import dataclasses
from typing import Any

from flax import nnx

from unet_flax.autoencoder import Autoencoder
from unet_flax.autoencoder_config import AutoencoderConfig
from unet_flax.classifier import UNetClassifier, UNetClassifierConfig
from unet_flax.config import UNetConfig
from unet_flax.edm2 import EDM2UNet
from unet_flax.edm2_config import EDM2Config
from unet_flax.functional import Params, with_params
from unet_flax.unet import UNet

Model = UNetConfig | EDM2Config

NETWORKS: dict[type, type[nnx.Module]] = {
    UNetConfig: UNet,
    EDM2Config: EDM2UNet,
    # no Models: they denoise nothing
    UNetClassifierConfig: UNetClassifier,
    AutoencoderConfig: Autoencoder,
}


def make(config: Model | UNetClassifierConfig | AutoencoderConfig, rngs: nnx.Rngs) -> Any:
    """The network of a configuration, with new weights.

    Raises:
      ValueError: image_size or in_channels is not known yet.
    """
    return NETWORKS[type(config)](config, rngs=rngs)  # pyright: ignore[reportCallIssue]


def module(config: Model | UNetClassifierConfig | AutoencoderConfig, params: Params) -> Any:
    """The network of a configuration, with these parameters, as `functional` gives them.

    Raises:
      ValueError: the parameters are not those of such a network; names at most ten.
    """
    return with_params(nnx.eval_shape(lambda: make(config, nnx.Rngs(0))), params)


def fitted(
    config: Model,
    *,
    image_size: int | tuple[int, ...],
    in_channels: int,
    num_classes: int | None = None,
    augment_channels: int | None = None,
    context_channels: int | None = None,
    condition_channels: int | None = None,
    text_size: tuple[int, int] | None = None,
    outputs: int = 1,
) -> Model:
    """The configuration for given data: open fields are filled, the others are checked.

    Args:
      config: its open fields are None, or 0 for condition_channels.
      image_size: (height, width) of the data's images, or one number for square ones.
      in_channels: their channels.
      num_classes: number of classes, or None where the data has no labels.
      augment_channels: width of the augmentation's label, or None where there is none.
      context_channels: width of the context's tokens, or None where there is no context.
      condition_channels: channels of the conditioning image; None or 0 where there is none.
      text_size: number of different tokens, and tokens of a text; None where there is no text.
      outputs: values that the network predicts for each of the image's, 2 where it learns a
        variance; fills out_channels where that is open, and does not check it.
    Raises:
      ValueError: a field has another value than the data, or the kind of network has no such input;
        one line with the field and both values.
    """
    if not isinstance(image_size, int) and len(set(image_size)) == 1:
        image_size = image_size[0]
    facts = dict(
        image_size=image_size,
        in_channels=in_channels,
        num_classes=num_classes,
        augment_channels=augment_channels,
        context_channels=context_channels,
        condition_channels=condition_channels or None,
    )
    changes: dict[str, Any] = {}
    if outputs != 1 and getattr(config, "out_channels", in_channels) is None:
        changes["out_channels"] = outputs * in_channels
    for field, fact in facts.items():
        stated = getattr(config, field, None) or None
        if stated is None and fact is not None:
            if not hasattr(config, field):
                raise ValueError(
                    f"{field}={fact} is what the data has, but {type(config).__name__} has no such "
                    "input; use a UNetConfig, or data without it."
                )
            changes[field] = fact
        elif stated != fact:
            open_value = 0 if field == "condition_channels" else None
            raise ValueError(
                f"{field}={stated} does not fit the data, which has {fact}; use {open_value} to "
                "take it from the data, or other data."
            )
    changes |= _fitted_text(config, text_size)
    return dataclasses.replace(config, **changes)


def _fitted_text(config: Model, text_size: tuple[int, int] | None) -> dict[str, Any]:
    """The change that fits the network's text encoder to the texts of the data."""
    text = getattr(config, "text", None)
    if text is None and text_size is None:
        return {}
    if text is None or text_size is None:
        has, takes = ("no texts", "text=None") if text is not None else ("texts", "a text encoder")
        raise ValueError(f"the data has {has}; use a UNetConfig with {takes}, or other data.")
    facts = dict(zip(("vocab_size", "num_tokens"), text_size, strict=True))
    for field, fact in facts.items():
        if getattr(text, field) not in (None, fact):
            raise ValueError(
                f"text.{field}={getattr(text, field)} does not fit the data, which has {fact}; use "
                "None to take it from the data."
            )
    return {"text": dataclasses.replace(text, **facts)}
