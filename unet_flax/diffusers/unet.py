"""diffusers' `UNet2DModel`, read and written: the names and the layout of its weights.

Images are (B, H, W, C) here and (B, C, H, W) there; the timestep is c_noise. Networks of
time_embedding_type "fourier" take c_noise = ln(timestep) here, and diffusers divides their output
by the timestep, which is left to the preconditioning here.

Source: diffusers 0.42.1, the documented fields of UNet2DModel and the names in its checkpoints.
"""

from typing import Any

import jax
import numpy as np
from flax import nnx

from unet_flax.diffusers.unet_config import from_diffusers, to_diffusers
from unet_flax.diffusers.weights import Path, current_names, fill, kernel_to_torch, leaves
from unet_flax.functional import functional
from unet_flax.unet import UNet

Size = int | tuple[int, ...] | None


def read_unet(
    values: dict[str, Any], weights: dict[str, jax.Array], image_size: Size, dtype: str
) -> UNet:
    """The network of a config.json and its weights.

    Raises:
      ValueError: config.json asks for what UNet does not have, or the weights do not fit it.
    """
    config = from_diffusers(values, image_size, dtype)
    graph, shapes = nnx.split(nnx.eval_shape(lambda: UNet(config, rngs=nnx.Rngs(0))))
    current = current_names(weights)
    return nnx.merge(graph, fill(nnx.to_pure_dict(shapes), current, name_of, to_torch))


def write_unet(unet: UNet) -> tuple[dict[str, Any], dict[str, Any]]:
    """The config.json and the weights of a network.

    Raises:
      ValueError: it has what UNet2DModel does not; names the field.
    """
    values = to_diffusers(unet.config)
    params = leaves(functional(unet)[1])
    return values, {name_of(path): to_torch(path, np.asarray(leaf)) for path, leaf in params}


LAYERS = {
    "norm_in": "norm1",
    "conv_in": "conv1",
    "emb_proj": "time_emb_proj",
    "norm_out": "norm2",
    "conv_out": "conv2",
    "skip": "conv_shortcut",
    "conv": "conv",
    "norm": "group_norm",
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj": "to_out.0",
}
TOPS = {
    ("conv_in",): "conv_in",
    ("norm_out",): "conv_norm_out",
    ("conv_out",): "conv_out",
    ("embedding", "linear_in"): "time_embedding.linear_1",
    ("embedding", "linear_out"): "time_embedding.linear_2",
    ("embedding", "noise_features"): "time_proj",
    ("embedding", "label_embedding"): "class_embedding",
}


def name_of(path: Path) -> str:
    """encoder, 0, 1, res_block, conv_in, kernel: to down_blocks.0.resnets.1.conv1.weight."""
    kind = "bias" if path[-1] == "bias" else "weight"
    if path[:-1] in TOPS:
        return f"{TOPS[path[:-1]]}.{kind}"
    part, level, *inner = path[:-1]
    if part in ("downsamples", "upsamples"):
        owner = f"{part.removesuffix('samples')}_blocks.{level}.{part.removesuffix('s')}rs.0"
        return f"{owner}.{LAYERS[inner[-1]]}.{kind}"
    if part == "middle":
        block, inner, owner = level, inner, "mid_block"
    else:
        block, *inner = inner
        owner = f"{'down' if part == 'encoder' else 'up'}_blocks.{level}"
    group = "resnets" if inner[0] == "res_block" else "attentions"
    return f"{owner}.{group}.{block}.{LAYERS[inner[-1]]}.{kind}"


def to_torch(path: Path, array: Any) -> Any:
    """An array in PyTorch's layout; a skip path's matrix is a 1x1 convolution there."""
    if path[-1] != "kernel":
        return array
    array = kernel_to_torch(array)
    return array[:, :, None, None] if path[-2:] == ("skip", "kernel") else array
