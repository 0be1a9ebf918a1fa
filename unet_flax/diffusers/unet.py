"""Reads and writes the folders of diffusers' `UNet2DModel`: config.json and safetensors.

    unet = load_diffusers("ddpm-cifar10-32")     # a pipeline's folder, or the unet's own
    save_diffusers(unet, "folder")               # UNet2DModel.from_pretrained("folder") reads it

Images are (B, H, W, C) here and (B, C, H, W) there; the timestep is c_noise. Networks of
time_embedding_type "fourier" take c_noise = ln(timestep) here, and diffusers divides their output
by the timestep, which here is the preconditioning's business.

Source: diffusers 0.42.1, the documented fields of UNet2DModel and the names in its checkpoints.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from unet_flax.diffusers.unet_config import from_diffusers, to_diffusers
from unet_flax.functional import functional
from unet_flax.unet import UNet

WEIGHTS = "diffusion_pytorch_model.safetensors"


def load_diffusers(
    folder: str | Path, *, image_size: int | None = None, dtype: str = "float32"
) -> UNet:
    """Reads a network that diffusers wrote.

    Classes have no null row there: every label must be given. A network of time_embedding_type
    "fourier" takes c_noise = ln(timestep) here, and its output is what diffusers divides by the
    timestep.

    Args:
      folder: holds config.json and the weights as safetensors, in one file or in shards; or a
        pipeline's folder with all that in `unet`.
      image_size: height and width in pixels, where they are not config.json's sample_size.
      dtype: type in which the network computes; parameters are float32.
    Raises:
      FileNotFoundError: config.json or the weights are not there.
      ValueError: config.json asks for what UNet cannot be (names the field), or the weights are
        not those that it asks for (names them, ten at most).
    """
    folder = Path(folder)
    if not (folder / "config.json").is_file() and (folder / "unet").is_dir():
        folder = folder / "unet"
    values = _read_json(folder / "config.json")
    graph, shapes = nnx.split(
        nnx.eval_shape(lambda: UNet(from_diffusers(values, image_size, dtype), rngs=nnx.Rngs(0)))
    )
    return nnx.merge(graph, _fill(nnx.to_pure_dict(shapes), _read_weights(folder)))


def save_diffusers(unet: UNet, folder: str | Path) -> None:
    """Writes config.json and the weights so that `UNet2DModel.from_pretrained(folder)` reads them.

    A null class becomes the last of diffusers' classes: give it num_classes where this library
    takes -1.

    Raises:
      ValueError: the network is no UNet, or has what UNet2DModel cannot be; names the field.
    """
    import safetensors.flax

    if not isinstance(unet, UNet):
        raise ValueError(
            f"unet={type(unet).__name__} cannot be expressed by diffusers' UNet2DModel; a UNet can."
        )
    folder = Path(folder)
    values = to_diffusers(unet.config)
    weights = {
        _their_name(path): _to_torch(path, leaf) for path, leaf in _leaves(functional(unet)[1])
    }
    folder.mkdir(parents=True, exist_ok=True)
    # the weights come last, and no others stay: a folder with weights is whole
    stale = folder.glob(f"{Path(WEIGHTS).stem}-*-of-*.safetensors")
    for path in (folder / WEIGHTS, folder / f"{WEIGHTS}.index.json", *stale):
        path.unlink(missing_ok=True)
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n")
    unfinished = folder / f".{WEIGHTS}"
    safetensors.flax.save_file(weights, str(unfinished), metadata={"format": "pt"})
    unfinished.replace(folder / WEIGHTS)


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} holds no {path.name}: it is no diffusers folder.")
    try:
        values = json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object.")
    return values


def _read_weights(folder: Path) -> dict[str, jax.Array]:
    import safetensors
    import safetensors.flax

    index = folder / f"{WEIGHTS}.index.json"
    if index.is_file():
        shards = _read_json(index).get("weight_map")
        if not isinstance(shards, dict):
            raise ValueError(f"{index} is damaged: it has no weight_map.")
        names = sorted({str(shard) for shard in shards.values()})
    else:
        names = [WEIGHTS]
    weights: dict[str, jax.Array] = {}
    for name in names:
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} holds no {name}; weights in another format can be written as "
                "safetensors by diffusers' save_pretrained."
            )
        try:
            weights |= safetensors.flax.load_file(str(folder / name))
        except safetensors.SafetensorError as error:
            raise ValueError(f"{folder / name} is damaged: {error}.") from error
    return {_current_name(name): array for name, array in weights.items()}


def _current_name(name: str) -> str:
    """Attention had other names in old checkpoints, such as google/ddpm-*."""
    old = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}
    owner, dot, kind = name.rpartition(".")
    rest, another_dot, layer = owner.rpartition(".")
    return f"{rest}{another_dot}{old.get(layer, layer)}{dot}{kind}"


def _leaves(tree: dict[Any, Any], path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*path, key))
        else:
            yield (*path, key), value


def _fill(shapes: dict[Any, Any], weights: dict[str, jax.Array]) -> dict[Any, Any]:
    """The tree of shapes with the weights in it."""
    wanted = {_their_name(path): (path, leaf) for path, leaf in _leaves(shapes)}
    missing, unexpected = sorted(wanted.keys() - weights), sorted(weights.keys() - wanted)
    if missing or unexpected:
        raise ValueError(
            f"the weights do not fit config.json: {len(missing)} missing{_some(missing)}, "
            f"{len(unexpected)} unexpected{_some(unexpected)}."
        )
    misfits = []
    for name, (path, leaf) in wanted.items():
        shape, fitting = weights[name].shape, jax.eval_shape(partial(_to_torch, path), leaf).shape
        # projections are convolutions of one pixel there, in old checkpoints matrices
        if shape != fitting and shape not in (fitting[:2], (*fitting, 1, 1)):
            misfits.append(f"{name} {shape}, not {fitting}")
    if misfits:
        raise ValueError(f"the weights do not fit config.json: {len(misfits)}{_some(misfits)}.")
    filled: dict[Any, Any] = {}
    for name, (path, leaf) in wanted.items():
        node = filled
        for key in path[:-1]:
            node = node.setdefault(key, {})
        node[path[-1]] = _from_torch(path, weights[name]).astype(leaf.dtype)
    return filled


def _some(names: list[str]) -> str:
    if not names:
        return ""
    return f" ({', '.join(names[:10])}{', ...' if len(names) > 10 else ''})"


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


def _their_name(path: tuple[Any, ...]) -> str:
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


def _is_projection(path: tuple[Any, ...]) -> bool:
    """Whether a kernel is a matrix product here and a 1x1 convolution there."""
    return path[-2:] == ("skip", "kernel")


def _from_torch(path: tuple[Any, ...], array: jax.Array) -> jax.Array:
    """(O, I, H, W) to (H, W, I, O), (O, I) to (I, O)."""
    if path[-1] != "kernel":
        return array
    if array.ndim == 4 and array.shape[2:] == (1, 1):
        array = array[:, :, 0, 0]
    return jnp.transpose(array, (2, 3, 1, 0) if array.ndim == 4 else (1, 0))


def _to_torch(path: tuple[Any, ...], array: jax.Array) -> jax.Array:
    if path[-1] != "kernel":
        return array
    array = jnp.transpose(array, (3, 2, 0, 1) if array.ndim == 4 else (1, 0))
    return array[:, :, None, None] if _is_projection(path) else array
