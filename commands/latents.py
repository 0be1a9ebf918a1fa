"""Latents of images for a run, and images of its latents, by the autoencoder that it keeps."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from jaxtyping import Array, Float, UInt8
from tqdm import tqdm

import unet_flax
from diffusion import sharding
from diffusion.data.latents import Latents
from diffusion.pixels import from_pixels
from diffusion.run import checkpoint, fingerprint, hosts
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

    @cached_property
    def _encoder(self) -> tuple[Callable[..., Any], Any]:
        return self._on_devices(self.autoencoder.encoder)

    @cached_property
    def _decoder(self) -> tuple[Callable[..., Any], Any]:
        return self._on_devices(self.autoencoder.decoder)

    def _on_devices(self, half: nnx.Module) -> tuple[Callable[..., Any], Any]:
        network, params = unet_flax.functional(half)
        return jax.jit(network), sharding.on_every_device(self.mesh, params)

    def encode(self, pixels: UInt8[np.ndarray, "N H W C"]) -> Float[np.ndarray, "N h w D"]:
        """The scaled mean of each image's latent."""
        encode, params = self._encoder
        config = self.autoencoder.config

        def scaled(image: Array) -> Array:
            return (encode(params, image)[0] - config.shift_factor) * config.scaling_factor

        return self._in_batches(scaled, pixels, from_pixels)

    def decode(self, z: Float[Array, "B h w D"]) -> Float[Array, "B H W C"]:
        """The images of scaled latents, about in [-1, 1]."""
        decode, params = self._decoder
        config = self.autoencoder.config
        return decode(params, z / config.scaling_factor + config.shift_factor)

    def decode_all(self, z: Float[np.ndarray, "N h w D"]) -> Float[np.ndarray, "N H W C"]:
        """The images of scaled latents in the host's memory."""
        return self._in_batches(self.decode, z)

    def _in_batches(
        self,
        function: Callable[[Array], Array],
        values: np.ndarray,
        prepare: Callable[[Any], Any] = lambda rows: rows,
    ) -> np.ndarray:
        """A function of arrays in the host's memory, batch by batch."""
        size = min(BATCH_SIZE, len(values))
        size = -(-size // self.mesh.size) * self.mesh.size
        firsts, found = range(0, len(values), size), []
        is_quiet = len(firsts) < 4 or not hosts.is_main()
        for first in tqdm(firsts, "latents", leave=False, disable=True if is_quiet else None):
            # the last batch is padded, so that nothing is compiled again
            rows = np.minimum(np.arange(first, first + size), len(values) - 1)
            batch = sharding.shard_batch(self.mesh, {"rows": prepare(values[rows])})
            found.append(hosts.fetch(function(batch["rows"])))
        return np.concatenate(found)[: len(values)]

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
        """32 bits that change with the weights; all hosts must ask for it."""
        return fingerprint.of_devices([self._encoder[1], self._decoder[1]])


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
    folder = run_dir if _has_copy(run_dir) else Path(latents.autoencoder).expanduser()
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
    """Copies the autoencoder into a run's folder, unless it has one that belongs to the run."""
    if not _has_copy(run_dir):
        save(space.autoencoder, run_dir)


def _has_copy(run_dir: Path) -> bool:
    """Whether a run has begun with the autoencoder in its folder; before, it is left of another."""
    return bool(checkpoint.steps(run_dir)) and (run_dir / FOLDER).is_dir()


def save(autoencoder: Autoencoder, run_dir: Path) -> None:
    """Writes an autoencoder into a run's folder, as diffusers does, in place of an older one."""
    unfinished, older = run_dir / f".{FOLDER}", run_dir / f".{FOLDER}-older"
    with checkpoint.as_save_error(run_dir, OSError):
        shutil.rmtree(unfinished, ignore_errors=True)
        unet_flax.save_diffusers(autoencoder, unfinished)
        shutil.rmtree(older, ignore_errors=True)
        if (run_dir / FOLDER).is_dir():
            (run_dir / FOLDER).rename(older)  # a rename is over at once: a kill leaves one of both
        unfinished.rename(run_dir / FOLDER)
        shutil.rmtree(older, ignore_errors=True)
