"""Files of a network's folder: config.json, and weights in one file or in shards.

    diffusion_pytorch_model.safetensors                    one file
    diffusion_pytorch_model.safetensors.index.json         names the shards
    diffusion_pytorch_model.fp16.safetensors               a variant, read where it is the only one
    diffusion_pytorch_model.safetensors.index.fp16.json    names the shards of a variant
    diffusion_pytorch_model.bin                            the same, as torch.save writes it, read
    diffusion_pytorch_model.bin.index.json                 where there are no safetensors

Source: diffusers 0.42.1, the files that `save_pretrained` writes.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from unet_flax.diffusers.torch_file import read_torch_file

STEM = "diffusion_pytorch_model"


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it holds something else.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path.parent} holds no {path.name}: it is no diffusers folder.")
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is damaged: {error}.") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path} is damaged: it holds no JSON object.")
    return values


def read_weights(folder: Path, stem: str = STEM) -> dict[str, jax.Array]:
    """The weights by their names in the files.

    Raises:
      FileNotFoundError: there are none, or a shard is missing.
      ValueError: a file is damaged, or there are several variants and no plain weights.
    """
    weights: dict[str, jax.Array] = {}
    for name in _files(folder, stem):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder} holds no {name}, a part of its weights; copy it too."
            )
        if name.endswith(".bin"):
            weights |= {k: jnp.asarray(v) for k, v in read_torch_file(folder / name).items()}
            continue
        safetensors = _safetensors()
        try:
            weights |= safetensors.flax.load_file(str(folder / name))
        except safetensors.SafetensorError as error:
            raise ValueError(f"{folder / name} is damaged: {error}.") from error
    return weights


def _safetensors() -> Any:
    """The package, which only the extra `train` brings."""
    try:
        import safetensors.flax
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{error.name} is not installed, and diffusers folders need it; it comes with pip "
            "install 'unet-flax[train]'.",
            name=error.name,
        ) from None
    return safetensors


def _files(folder: Path, stem: str) -> list[str]:
    index, single = folder / f"{stem}.safetensors.index.json", folder / f"{stem}.safetensors"
    if index.is_file():
        return _shards(index)
    if single.is_file():
        return [single.name]
    indexes = sorted(folder.glob(f"{stem}.safetensors.index.*.json"))
    parts = {name for path in indexes for name in _shards(path)}
    singles = sorted(folder.glob(f"{stem}.*.safetensors"))
    variants = [*indexes, *(path for path in singles if path.name not in parts)]
    if len(variants) > 1:
        names = ", ".join(path.name for path in variants)
        raise ValueError(
            f"{folder} holds several variants of the weights ({names}); leave one of them, or name "
            f"it {single.name}."
        )
    if variants:
        return sorted(parts) or [variants[0].name]
    if (folder / f"{stem}.bin.index.json").is_file():
        return _shards(folder / f"{stem}.bin.index.json")
    if (folder / f"{stem}.bin").is_file():
        return [f"{stem}.bin"]
    raise FileNotFoundError(
        f"{folder} holds no {single.name}; weights in another format can be written as "
        "safetensors by diffusers' save_pretrained."
    )


def _shards(index: Path) -> list[str]:
    names = read_json(index).get("weight_map")
    if not isinstance(names, dict) or not names:
        raise ValueError(f"{index} is damaged: it has no weight_map.")
    shards = {str(name) for name in names.values()}
    if outside := sorted(name for name in shards if Path(name).name != name):
        raise ValueError(f"{index} is damaged: {outside[0]!r} is no file of its folder.")
    return sorted(shards)


def write(folder: Path, values: dict[str, Any], weights: dict[str, Any], stem: str = STEM) -> None:
    """Writes config.json and the weights in one file, in place of any that are there.

    The weights come last, and appear whole: a folder with weights is complete.
    """
    safetensors = _safetensors()
    folder.mkdir(parents=True, exist_ok=True)
    for pattern in (f"{stem}*.safetensors", f"{stem}.safetensors.index*.json", f"{stem}*.bin*"):
        for path in folder.glob(pattern):
            path.unlink()
    (folder / "config.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
    unfinished = folder / f".{stem}.safetensors"
    # safetensors writes the memory of an array as it lies there, whatever its strides
    arrays: Any = {name: np.asarray(array, order="C") for name, array in weights.items()}
    safetensors.flax.save_file(arrays, str(unfinished), metadata={"format": "pt"})
    unfinished.replace(folder / f"{stem}.safetensors")
