"""diffusers' `AutoencoderKL`, read and written: its config.json, and the names of its weights.

Images and latents are (B, H, W, C) here and (B, C, H, W) there.

Source: diffusers 0.42.1, the documented fields of AutoencoderKL and the names in its checkpoints.
"""

from typing import Any

import jax
import numpy as np
from flax import nnx

from unet_flax.autoencoder import Autoencoder
from unet_flax.autoencoder_config import AutoencoderConfig
from unet_flax.diffusers.unet import LAYERS, Size
from unet_flax.diffusers.unet_fields import IGNORED
from unet_flax.diffusers.weights import Path, current_names, fill, kernel_to_torch, leaves
from unet_flax.functional import functional
from unet_flax.rules import Rule, each, flag, nothing, one_of, or_none, real, whole

DOWN, UP = "DownEncoderBlock2D", "UpDecoderBlock2D"
# diffusers' own defaults, for fields that config.json leaves out
DEFAULTS: dict[str, Any] = dict(
    in_channels=3,
    out_channels=3,
    down_block_types=(DOWN,),
    up_block_types=(UP,),
    block_out_channels=(64,),
    layers_per_block=1,
    act_fn="silu",
    latent_channels=4,
    norm_num_groups=32,
    sample_size=32,
    scaling_factor=0.18215,
    shift_factor=None,
    latents_mean=None,
    latents_std=None,
    force_upcast=True,
    use_quant_conv=True,
    use_post_quant_conv=True,
    mid_block_add_attention=True,
)
FREE = frozenset(["sample_size", "force_upcast"])
"""Fields that change no output here: the size of diffusers' tiles, and its choice of a type."""

UNSCALED = Rule(f"{nothing.allowed}: latents have one scale and one shift here", nothing.fits)
# what each field may hold by itself; fitting_rules says how they fit together
RULES: dict[str, Rule] = dict(
    in_channels=whole(),
    block_out_channels=each(whole()),
    layers_per_block=whole(),
    act_fn=one_of("silu", "swish"),
    latent_channels=whole(),
    norm_num_groups=whole(),
    scaling_factor=real(above=0),
    shift_factor=or_none(real()),
    latents_mean=UNSCALED,
    latents_std=UNSCALED,
    use_quant_conv=flag,
    use_post_quant_conv=flag,
    mid_block_add_attention=flag,
)


def fitting_rules(v: dict[str, Any]) -> dict[str, Rule]:
    """The rules of fields that others decide."""
    widths, channels = v["block_out_channels"], v["in_channels"]

    def kinds(name: str) -> Rule:
        expected = [name] * len(widths)
        return Rule(
            f"{name!r} for each of block_out_channels={widths}",
            lambda value: isinstance(value, list | tuple) and list(value) == expected,
        )

    def divides(value: Any) -> bool:
        return not any(width % value for width in widths)

    return dict(
        out_channels=Rule(f"{channels}, as in_channels", lambda value: value == channels),
        down_block_types=kinds(DOWN),
        up_block_types=kinds(UP),
        norm_num_groups=Rule(f"a divisor of each of block_out_channels={widths}", divides),
    )


def from_diffusers(values: dict[str, Any], dtype: str) -> AutoencoderConfig:
    """What config.json says, as an AutoencoderConfig.

    Raises:
      ValueError: a field's value cannot be loaded; names the field.
    """
    for name, value in values.items():
        if name not in DEFAULTS.keys() | IGNORED and name[:1] != "_" and value is not None:
            raise ValueError(
                f"{name}={value!r} cannot be expressed here; it is no field of AutoencoderKL that "
                "this knows."
            )
    v = DEFAULTS | values
    v |= {name: rule(name, v[name]) for name, rule in RULES.items()}
    for name, rule in fitting_rules(v).items():
        rule(name, v[name])
    widths = v["block_out_channels"]
    return AutoencoderConfig(
        image_channels=v["in_channels"],
        latent_channels=v["latent_channels"],
        channels=widths[0],
        channel_mult=tuple(width / widths[0] for width in widths),
        num_res_blocks=v["layers_per_block"],
        num_groups=v["norm_num_groups"],
        use_quant_conv=v["use_quant_conv"],
        use_post_quant_conv=v["use_post_quant_conv"],
        mid_block_add_attention=v["mid_block_add_attention"],
        scaling_factor=v["scaling_factor"],
        shift_factor=v["shift_factor"] or 0.0,
        dtype=dtype,
    )


def to_diffusers(config: AutoencoderConfig) -> dict[str, Any]:
    """The config.json of an autoencoder."""
    widths = list(config.widths)
    return DEFAULTS | {
        "_class_name": "AutoencoderKL",
        "in_channels": config.image_channels,
        "out_channels": config.image_channels,
        "down_block_types": [DOWN] * len(widths),
        "up_block_types": [UP] * len(widths),
        "block_out_channels": widths,
        "layers_per_block": config.num_res_blocks,
        "latent_channels": config.latent_channels,
        "norm_num_groups": config.num_groups,
        "sample_size": 512,  # as Stable Diffusion's; diffusers' 32 would make its tiles tiny
        "scaling_factor": config.scaling_factor,
        "shift_factor": config.shift_factor or None,
        "use_quant_conv": config.use_quant_conv,
        "use_post_quant_conv": config.use_post_quant_conv,
        "mid_block_add_attention": config.mid_block_add_attention,
    }


def read_autoencoder(
    values: dict[str, Any], weights: dict[str, jax.Array], image_size: Size, dtype: str
) -> Autoencoder:
    """The autoencoder of a config.json and its weights.

    Raises:
      ValueError: config.json asks for what Autoencoder does not have, the weights do not fit it, or
        there is an image_size.
    """
    if image_size is not None:
        raise ValueError(
            f"image_size={image_size} is given for an autoencoder, which takes images of every "
            "size; leave it out."
        )
    config, current = from_diffusers(values, dtype), current_names(weights)
    graph, shapes = nnx.split(nnx.eval_shape(lambda: Autoencoder(config, rngs=nnx.Rngs(0))))
    return nnx.merge(graph, fill(nnx.to_pure_dict(shapes), current, name_of, to_torch))


def write_autoencoder(autoencoder: Autoencoder) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config.json and the weights of an autoencoder."""
    params = leaves(functional(autoencoder)[1])
    weights = {name_of(path): to_torch(path, np.asarray(leaf)) for path, leaf in params}
    return to_diffusers(autoencoder.config), weights


POINTWISE = ("quant_conv", "post_quant_conv")
TOPS = {"conv_in": "conv_in", "norm_out": "conv_norm_out", "conv_out": "conv_out"}
LEVELS = {"encoder": ("down_blocks", "downsamplers"), "decoder": ("up_blocks", "upsamplers")}


def name_of(path: Path) -> str:
    """encoder, levels, 0, 1, conv_in, kernel: to encoder.down_blocks.0.resnets.1.conv1.weight."""
    kind = "bias" if path[-1] == "bias" else "weight"
    half, part, *inner = path[:-1]
    if part in POINTWISE:
        return f"{part}.{kind}"
    if part in TOPS:
        return f"{half}.{TOPS[part]}.{kind}"
    *level, block, first = inner[: 2 + (part == "levels")]
    layer = f"{LAYERS[inner[-1]]}.{kind}"
    if part == "middle":
        is_attention = first in ("norm", "heads")
        # the second residual block comes after the attention, where there is any
        group = "attentions.0" if is_attention else f"resnets.{min(int(block), 1)}"
        return f"{half}.mid_block.{group}.{layer}"
    blocks, resamplers = LEVELS[half]
    group = f"{resamplers}.0" if first == "conv" else f"resnets.{block}"
    return f"{half}.{blocks}.{level[0]}.{group}.{layer}"


def to_torch(path: Path, array: Any) -> Any:
    """An array in PyTorch's layout; matrices of every pixel are 1x1 convolutions there."""
    if path[-1] != "kernel":
        return array
    array = kernel_to_torch(array)
    return array[:, :, None, None] if path[-2] in ("skip", *POINTWISE) else array
