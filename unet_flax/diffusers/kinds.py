"""Reads and writes diffusers folders: the class that config.json names decides which network.

unet = load_diffusers("ddpm-cifar10-32")     # a pipeline's folder, or the network's own
save_diffusers(unet, "folder")               # UNet2DModel.from_pretrained("folder") reads it
"""

from pathlib import Path
from typing import Any

from unet_flax.diffusers.folder import read_json, read_weights, write
from unet_flax.diffusers.unet import Size, read_unet, write_unet
from unet_flax.unet import UNet

READERS = {"UNet2DModel": read_unet}
"""(values, weights, image_size, dtype) -> network, by config.json's _class_name."""

WRITERS = {UNet: write_unet}
"""network -> (values, weights), by the network's class."""


def load_diffusers(folder: str | Path, *, image_size: Size = None, dtype: str = "float32") -> UNet:
    """Reads a network that diffusers wrote.

    Its classes have no null class: every label must be given. A network of time_embedding_type
    "fourier" takes c_noise = ln(timestep) here, and its output is what diffusers divides by the
    timestep.

    Args:
      folder: holds config.json and the weights as safetensors, in one file or in shards; or a
        pipeline's folder with all that in `unet`; or a checkpoint of training, of which the average
        in `unet_ema` is read, if there is one.
      image_size: size in pixels, one number or (height, width), where it is not config.json's
        sample_size.
      dtype: type in which the network computes; parameters are float32.
    Raises:
      FileNotFoundError: config.json or the weights are not there.
      ValueError: config.json names a class or a field's value that cannot be loaded, or the
        weights are not those of its network (names them, ten at most).
    """
    folder = network_folder(Path(folder))
    values = read_json(folder / "config.json")
    kind = values.get("_class_name", "UNet2DModel")
    if not isinstance(kind, str) or kind not in READERS:
        raise ValueError(f"_class_name={kind!r} cannot be loaded; {' or '.join(READERS)} can.")
    return READERS[kind](values, read_weights(folder), image_size, dtype)


def network_folder(folder: Path) -> Path:
    """The folder of the network: the given one, or in it the average `unet_ema`, or `unet`."""
    if not (folder / "config.json").is_file():
        if (folder / "unet_ema" / "config.json").is_file():
            return folder / "unet_ema"
        if (folder / "unet").is_dir():
            return folder / "unet"
    return folder


def save_diffusers(unet: Any, folder: str | Path) -> None:
    """Writes config.json and the weights so that `UNet2DModel.from_pretrained(folder)` reads them.

    The null class becomes the last of diffusers' classes: give it num_classes there, where this
    library takes -1.

    Args:
      unet: a `UNet`.
      folder: is made where it is missing; a pipeline's network belongs in its folder `unet`.
    Raises:
      ValueError: the network is no UNet, or has what UNet2DModel does not; names the field.
    """
    if type(unet) not in WRITERS:
        raise ValueError(
            f"unet={type(unet).__name__} cannot be expressed by diffusers' UNet2DModel; a UNet can."
        )
    values, weights = WRITERS[type(unet)](unet)
    write(Path(folder), values, weights)
