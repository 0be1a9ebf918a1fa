"""Reads and writes image files, and arranges images in grids."""

from pathlib import Path

import numpy as np
from jaxtyping import Float, Int, UInt8
from PIL import Image, UnidentifiedImageError

from diffusion.pixels import from_pixels


def grid(
    pixels: UInt8[np.ndarray, "N H W C"], columns: int | None = None, gap: int = 1
) -> UInt8[np.ndarray, "height width C"]:
    """Arranges images in rows, left to right, with white gaps; about square by default."""
    n, height, width, channels = pixels.shape
    columns = columns or int(np.ceil(np.sqrt(n)))
    rows = -(-n // columns)
    canvas = np.full(
        (rows * (height + gap) + gap, columns * (width + gap) + gap, channels), 255, np.uint8
    )
    for i, image in enumerate(pixels):
        top = gap + (i // columns) * (height + gap)
        left = gap + (i % columns) * (width + gap)
        canvas[top : top + height, left : left + width] = image
    return canvas


def save_png(path: Path, pixels: UInt8[np.ndarray, "H W C"], zoom: int = 1) -> None:
    """Writes grey (C = 1) or RGB (C = 3) pixels atomically, enlarged by an integer zoom factor."""
    pixels = pixels.repeat(zoom, axis=0).repeat(zoom, axis=1)
    partial = path.with_name(f".{path.name}")
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(partial)
    partial.replace(path)


def read(path: Path, channels: int) -> Float[np.ndarray, "H W C"]:
    """Reads an image file as grey (1 channel) or RGB (3 channels), in [-1, 1].

    Raises:
      ValueError: the file is not an image, or channels is not 1 or 3.
    """
    if channels not in (1, 3):
        raise ValueError(
            f"{path}: image files have 1 or 3 channels, but the network has {channels}."
        )
    try:
        with Image.open(path) as image:
            pixels = np.asarray(image.convert("L" if channels == 1 else "RGB"))
    except UnidentifiedImageError as error:
        raise ValueError(f"{path} is not an image that can be read.") from error
    return from_pixels(pixels.reshape(*pixels.shape[:2], channels))


def save_gif(path: Path, frames: list[UInt8[np.ndarray, "H W C"]], seconds: float = 3.0) -> None:
    """Writes a looping animation of the given length; the last frame stays as long again."""
    zoom = zoom_for(frames[0])
    large = [frame.repeat(zoom, axis=0).repeat(zoom, axis=1) for frame in frames]
    pictures = [Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x) for x in large]
    each = int(1000 * seconds / len(frames))
    durations = [each] * (len(frames) - 1) + [int(1000 * seconds)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0)


def claim_folder(folder: Path) -> None:
    """Creates the folder and checks that it is writable, before the work of sampling.

    Raises:
      OSError: the folder cannot be created or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".probe"
    probe.touch()
    probe.unlink()


def save_samples(
    folder: Path, pixels: UInt8[np.ndarray, "N H W C"], labels: Int[np.ndarray, "N"]
) -> None:
    """Writes grid.png, 00000.png ... and samples.npz.

    Removes the numbered images of an earlier call, so that the folder holds one set of samples.
    """
    if (folder / "samples.npz").exists():
        for path in folder.glob("[0-9]" * 5 + ".png"):
            path.unlink()
    for index, image in enumerate(pixels):
        save_png(folder / f"{index:05d}.png", image)
    np.savez(folder / "samples.npz", images=pixels, labels=labels)
    canvas = grid(pixels[:400])
    save_png(folder / "grid.png", canvas, zoom=zoom_for(canvas))


def zoom_for(pixels: UInt8[np.ndarray, "H W C"]) -> int:
    """The integer factor that enlarges the longer side to at most 640 pixels; 1 if it is longer."""
    return max(1, 640 // max(pixels.shape[:2]))
