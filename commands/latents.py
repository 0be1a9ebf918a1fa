"""Latents of images for a run, and images of its latents, by the autoencoder that it keeps."""

import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, UInt8
from tqdm import tqdm

import unet_flax
from diffusion import sharding
from diffusion.data.latents import Latents
from diffusion.pixels import from_pixels
from diffusion.run import checkpoint, hosts
from unet_flax import Autoencoder

FOLDER = "autoencoder"
"""In a run's folder: its autoencoder, in the layout of diffusers."""

BATCH_SIZE = 64
"""Images that are encoded at a time."""


@dataclass(frozen=True, eq=False)
class LatentSpace:
    """The latents of an autoencoder, scaled to about unit variance.

      z = (latent - shift_factor) * scaling_factor

    Attributes:
      autoencoder: the autoencoder.
      mesh: the devices.
    """

    autoencoder: Autoencoder
    mesh: jax.sharding.Mesh

    def __post_init__(self):
        for name in ("encoder", "decoder"):
            network, params = unet_flax.functional(getattr(self.autoencoder, name))
            params = sharding.on_every_device(self.mesh, params)
            object.__setattr__(self, f"_{name}", (jax.jit(network), params))

    def encode(self, pixels: UInt8[np.ndarray, "N H W C"]) -> Float[np.ndarray, "N h w D"]:
        """The scaled mean of each image's latent."""
        encode, params = self._encoder  # pyright: ignore[reportAttributeAccessIssue]
        config, size = self.autoencoder.config, self._rounded(min(BATCH_SIZE, len(pixels)))
        found = []
        firsts = range(0, len(pixels), size)
        is_quiet = len(firsts) < 4 or not hosts.is_main()
        for first in tqdm(firsts, "encoding", leave=False, disable=True if is_quiet else None):
            # the last batch is padded, so that nothing is compiled again
            rows = np.minimum(np.arange(first, first + size), len(pixels) - 1)
            batch = sharding.shard_batch(self.mesh, {"image": from_pixels(pixels[rows])})
            mean, _ = encode(params, batch["image"])
            found.append(hosts.fetch((mean - config.shift_factor) * config.scaling_factor))
        return np.concatenate(found)[: len(pixels)]

    def decode(self, z: Float[Array, "B h w D"]) -> Float[Array, "B H W C"]:
        """The images of scaled latents, about in [-1, 1]."""
        decode, params = self._decoder  # pyright: ignore[reportAttributeAccessIssue]
        config = self.autoencoder.config
        return decode(params, z / config.scaling_factor + config.shift_factor)

    def decode_all(self, z: Float[np.ndarray, "N h w D"]) -> Float[np.ndarray, "N H W C"]:
        """The images of scaled latents in the host's memory."""
        size = self._rounded(min(BATCH_SIZE, len(z)))
        found = []
        for first in range(0, len(z), size):
            rows = np.minimum(np.arange(first, first + size), len(z) - 1)
            batch = sharding.shard_batch(self.mesh, {"z": z[rows]})
            found.append(hosts.fetch(self.decode(batch["z"])))
        return np.concatenate(found)[: len(z)]

    def image_shape(self, latent_shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape of the image of a latent."""
        *size, _ = latent_shape
        config = self.autoencoder.config
        return (*(side * config.downsample_factor for side in size), config.image_channels)

    def mask(self, mask: Any) -> Any:
        """The mask of the latents of a mask (H, W): True where any of their pixels is."""
        factor = self.autoencoder.config.downsample_factor
        height, width = (side // factor for side in mask.shape)
        return mask.reshape(height, factor, width, factor).any((1, 3))

    @property
    def fingerprint(self) -> int:
        """32 bits that change with the weights."""
        _, params = unet_flax.functional(self.autoencoder)
        crc = 0
        for path, leaf in jax.tree.leaves_with_path(params):
            name = jax.tree_util.keystr(path).encode()
            crc = zlib.crc32(np.ascontiguousarray(leaf).data, zlib.crc32(name, crc))
        return crc

    def _rounded(self, size: int) -> int:
        return -(-size // self.mesh.size) * self.mesh.size


def read(folder: Path, mesh: jax.sharding.Mesh) -> LatentSpace:
    """The latents of an autoencoder: of a run, trained or trained on, or of a diffusers folder.

    Raises:
      FileNotFoundError: there is none.
      ValueError: a file is damaged, or the folder is of another network.
    """
    own = folder / FOLDER
    found = unet_flax.load_diffusers(own if own.is_dir() else folder)
    if not isinstance(found, Autoencoder):
        raise ValueError(f"{folder} holds a {type(found).__name__}, and no autoencoder.")
    return LatentSpace(found, mesh)


def of_run(latents: Latents, run_dir: Path, mesh: jax.sharding.Mesh) -> LatentSpace:
    """The latents that a run is trained on: of its own copy of the autoencoder, where it has one.

    Raises:
      FileNotFoundError, ValueError: there is no autoencoder, or it is not as `latents` says.
    """
    is_kept = (run_dir / FOLDER).is_dir()
    folder = run_dir if is_kept else Path(latents.autoencoder).expanduser()
    if not folder.is_dir():
        raise FileNotFoundError(
            f"latents.autoencoder={latents.autoencoder}: there is no such folder; train one by "
            "`python train.py emoji_autoencoder`, or name the folder of another."
        )
    space = read(folder, mesh)
    config = space.autoencoder.config
    found = {"downsample_factor": config.downsample_factor, "channels": config.latent_channels}
    for name, value in found.items():
        if (stated := getattr(latents, name)) != value:
            raise ValueError(
                f"latents.{name}={stated}, but the autoencoder of {folder} has {value}; use that."
            )
    return space


def keep(space: LatentSpace, run_dir: Path) -> None:
    """Copies the autoencoder into a run's folder, unless it is there."""
    if not (run_dir / FOLDER).is_dir():
        save(space.autoencoder, run_dir)


def save(autoencoder: Autoencoder, run_dir: Path) -> None:
    """Writes an autoencoder into a run's folder, as diffusers does, in place of an older one."""
    unfinished = run_dir / f".{FOLDER}"
    with checkpoint.as_save_error(run_dir, OSError):
        shutil.rmtree(unfinished, ignore_errors=True)
        unet_flax.save_diffusers(autoencoder, unfinished)
        shutil.rmtree(run_dir / FOLDER, ignore_errors=True)
        unfinished.rename(run_dir / FOLDER)
