"""Reads and writes diffusers folders: the class that config.json names decides which network.

unet = load_diffusers("ddpm-cifar10-32")     # a pipeline's folder, or the network's own
autoencoder = load_diffusers("sd/vae")
save_diffusers(unet, "folder")               # UNet2DModel.from_pretrained("folder") reads it
"""

from pathlib import Path
from typing import Any

from unet_flax.autoencoder import Autoencoder
from unet_flax.diffusers.autoencoder import read_autoencoder, write_autoencoder
from unet_flax.diffusers.folder import read_json, read_weights, write
from unet_flax.diffusers.unet import Size, read_unet, write_unet
from unet_flax.unet import UNet

READERS = {"UNet2DModel": read_unet, "AutoencoderKL": read_autoencoder}
"""(values, weights, image_size, dtype) -> network, by config.json's _class_name."""

WRITERS = {UNet: write_unet, Autoencoder: write_autoencoder}
"""network -> (values, weights), by the network's class."""


def load_diffusers(folder: str | Path, *, image_size: Size = None, dtype: str = "float32") -> Any:
    """Reads a network that diffusers wrote: a `UNet` or an `Autoencoder`.

    A UNet's classes have no null class: every label must be given. One of time_embedding_type
    "fourier" takes c_noise = ln(timestep) here, and its output is what diffusers divides by the
    timestep.

    Args:
      folder: holds config.json and the weights as safetensors, in one file or in shards; or a
        pipeline's folder with all that in `unet`; or a checkpoint of training, of which the average
        in `unet_ema` is read, if there is one.
      image_size: size in pixels, one number or (height, width), where it is not config.json's
        sample_size; an autoencoder takes every size.
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


def save_diffusers(network: Any, folder: str | Path) -> None:
    """Writes config.json and the weights so that diffusers' `from_pretrained(folder)` reads them.

    A UNet's null class becomes the last of diffusers' classes: give it num_classes there, where
    this library takes -1.

    Args:
      network: a `UNet`, which becomes a UNet2DModel, or an `Autoencoder`, an AutoencoderKL.
      folder: is made where it is missing; a pipeline's network belongs in its folder `unet`, its
        autoencoder in `vae`.
    Raises:
      ValueError: the network is neither, or has what diffusers' class does not; names the field.
    """
    if type(network) not in WRITERS:
        kinds = " or ".join(kind.__name__ for kind in WRITERS)
        raise ValueError(
            f"network={type(network).__name__} cannot be expressed by diffusers; {kinds} can."
        )
    values, weights = WRITERS[type(network)](network)
    write(Path(folder), values, weights)
