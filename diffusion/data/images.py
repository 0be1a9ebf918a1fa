"""Reads and writes image files, and arranges images in grids."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8

from diffusion.optional import from_extra
from diffusion.pixels import from_pixels

with from_extra("train"):
    from PIL import Image, ImageDraw, ImageFont, ImageOps, UnidentifiedImageError


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


def captioned(
    pixels: UInt8[np.ndarray, "N K H W C"], captions: Sequence[str], gap: int = 6
) -> UInt8[np.ndarray, "height width C"]:
    """Cells of K images side by side with a caption under them, in rows, on white.

    Images are enlarged to 64 pixels or more, so that captions can be read.
    """
    count, per_cell, height, width, channels = pixels.shape
    zoom = max(1, -(-64 // min(height, width)))
    large = pixels.repeat(zoom, axis=2).repeat(zoom, axis=3)
    font = ImageFont.load_default(13)
    line, inner = 18, per_cell * width * zoom + (per_cell - 1) * 2
    columns = max(1, round(np.sqrt(count * (height * zoom + line) / inner)))
    rows = -(-count // columns)
    cell_width, cell_height = inner + gap, height * zoom + line + gap
    canvas = Image.new("RGB", (columns * cell_width + gap, rows * cell_height + gap), "white")
    pen = ImageDraw.Draw(canvas)
    for i, (cell, caption) in enumerate(zip(large, captions, strict=True)):
        top, left = gap + i // columns * cell_height, gap + i % columns * cell_width
        for k, one in enumerate(cell):
            image = Image.fromarray(one[..., 0] if channels == 1 else one)
            canvas.paste(image, (left + k * (width * zoom + 2), top))
        while len(caption) > 1 and pen.textlength(caption, font) > inner:
            caption = caption[:-2] + "…"
        pen.text((left, top + height * zoom + 1), caption, fill="black", font=font)
    shown = np.asarray(canvas)
    return shown if channels == 3 else np.asarray(canvas.convert("L"))[..., None]


def can_be_png(shape: tuple[int, ...]) -> bool:
    """Whether images of this shape can be PNG and GIF files: (H, W, 1) is grey, (H, W, 3) RGB."""
    return len(shape) == 3 and shape[-1] in (1, 3)


def save_png(path: Path, pixels: UInt8[np.ndarray, "H W C"], zoom: int = 1) -> None:
    """Writes grey (C = 1) or RGB (C = 3) pixels atomically, enlarged by an integer zoom factor."""
    pixels = pixels.repeat(zoom, axis=0).repeat(zoom, axis=1)
    partial = path.with_name(f".{path.name}")
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(partial)
    partial.replace(path)


def read(path: Path, channels: int) -> Float[np.ndarray, "H W C"]:
    """`read_pixels` as an image in [-1, 1]."""
    return from_pixels(read_pixels(path, channels))


def read_pixels(path: Path, channels: int) -> UInt8[np.ndarray, "H W C"]:
    """Reads an image file as grey (1 channel) or RGB (3 channels).

    Every mode of Pillow but LAB is read. Values of 16 bits lose their lower eight (v >> 8), numbers
    of type float are taken to span [0, 1], what is transparent is laid over white, the EXIF
    orientation is applied, and of several frames the first is taken.

    Raises:
      OSError: there is no such file.
      ValueError: the file is not an image or is damaged, its values are out of range, or channels
        is not 1 or 3.
    """
    if channels not in (1, 3):
        raise ValueError(
            f"{path}: image files have 1 or 3 channels, but the network has {channels}."
        )
    image = open_image(path.read_bytes(), str(path))
    return flatten(image, str(path), channels, background=255)


def read_mask(path: Path) -> Bool[np.ndarray, "H W"]:
    """Reads a mask: True where it is white, which is a grey value of 128 or more of 255.

    What is transparent is laid over black, so it is not white. A mask whose largest value is 1
    holds 0 and 1, and is True at 1.

    Raises:
      OSError: there is no such file.
      ValueError: the file is not an image or is damaged, or the mask is True nowhere or everywhere.
    """
    image = open_image(path.read_bytes(), str(path))
    grey = flatten(image, str(path), 1, background=0)[..., 0]
    # of the values themselves, whatever is transparent or lies in the lower eight bits
    raw = np.asarray(image if image.mode in (*DEEP_MODES, "F") else image.convert("L"))
    holds_0_and_1 = raw.max() == 1 and image.mode != "F"
    is_white = raw == 1 if holds_0_and_1 else grey >= 128
    if not is_white.any():
        raise ValueError(
            f"{path} is a mask without white: its largest value is {grey.max()} of 255, so nothing "
            "would be redrawn; what is to be redrawn must be 128 or more, and not transparent."
        )
    if is_white.all():
        raise ValueError(
            f"{path} is a mask that is white everywhere, so nothing of the image would be kept; "
            "paint black what is to be kept, or leave image and mask out."
        )
    return is_white


DEEP_MODES = ("I;16", "I;16L", "I;16B", "I;16N", "I")
"""Pillow's modes of grey values with 16 bits; "I" has 32, of which files use 16."""


def open_image(content: bytes, name: str) -> Image.Image:
    """The first frame of an image file, upright and loaded.

    Args:
      content: what the file holds.
      name: what errors call it.
    Raises:
      ValueError: it is not an image, is damaged, or has more than 179 million pixels.
    """
    if not content:
        raise ValueError(f"{name} is empty.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tags that are odd, and of sizes that are allowed
            # from memory: given a path, Pillow 13 maps the file and garbles a TIFF image that is
            # turned
            with Image.open(io.BytesIO(content)) as image:
                image.load()
                return ImageOps.exif_transpose(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"{name} is not an image that can be read.") from error
    except Exception as error:  # Pillow's readers raise errors of every kind for damaged files
        raise ValueError(f"{name} cannot be read as an image: {error}.") from error


def from_array(pixels: UInt8[np.ndarray, "..."]) -> Image.Image:
    """An image of pixels (H, W) or (H, W, 1, 3 or 4)."""
    is_grey = pixels.ndim == 3 and pixels.shape[-1] == 1
    return Image.fromarray(pixels[..., 0] if is_grey else pixels)


def flatten(
    image: Image.Image, name: str, channels: int, background: int
) -> UInt8[np.ndarray, "H W C"]:
    """The pixels as grey (1 channel), RGB (3) or RGBA (4).

    Values of 16 bits lose their lower eight (v >> 8), numbers of type float are taken to span
    [0, 1].

    Args:
      name: what errors call it.
      background: grey value 0 .. 255 over which what is transparent is laid, unless channels is 4.
    Raises:
      ValueError: values out of range, or colours that are not read.
    """
    colours, mode = min(channels, 3), "L" if channels == 1 else "RGB"
    if image.mode in DEEP_MODES or image.mode == "F":
        grey, alpha = _deep(image, name)
        pixels = np.repeat(grey[..., None], colours, axis=-1)
    elif image.mode == "LAB":  # Pillow would take its values for RGB
        raise ValueError(f"{name} has the colours of LAB, which are not read; save it as RGB.")
    elif image.has_transparency_data:
        rgba = image.convert("RGBA")
        pixels, alpha = np.asarray(rgba.convert("RGB").convert(mode)), np.asarray(rgba)[..., 3]
    else:
        pixels, alpha = np.asarray(image.convert("RGB").convert(mode)), None
    pixels = pixels.reshape(*pixels.shape[:2], colours)
    if channels == 4:
        opaque = np.full(pixels.shape[:2], 255, np.uint8) if alpha is None else alpha
        return np.concatenate([pixels, opaque[..., None]], axis=-1)
    if alpha is None:
        return pixels
    opacity = alpha[..., None].astype(np.uint16)  # 255 * 255 + 127 fits
    return ((pixels * opacity + background * (255 - opacity) + 127) // 255).astype(np.uint8)


def _deep(
    image: Image.Image, name: str
) -> tuple[UInt8[np.ndarray, "H W"], UInt8[np.ndarray, "H W"]]:
    """Grey and alpha of values that are no bytes."""
    values = np.asarray(image)
    largest = 1 if image.mode == "F" else 65535
    if not (values >= 0).all() or not (values <= largest).all():
        raise ValueError(
            f"{name} has values from {values.min()} to {values.max()}, but those of its mode "
            f"{image.mode} must lie in 0 .. {largest}; save it with 8 bits a channel."
        )
    invisible = image.info.get("transparency", -1)  # the one value that a PNG file makes invisible
    alpha = np.where(values == invisible, 0, 255)
    grey = np.round(values * 255) if image.mode == "F" else values >> 8
    return grey.astype(np.uint8), alpha.astype(np.uint8)


def save_gif(path: Path, frames: list[UInt8[np.ndarray, "H W C"]], seconds: float = 3.0) -> None:
    """Writes a looping animation of the given length; the last frame stays as long again."""
    zoom = zoom_for(frames[0])
    large = [frame.repeat(zoom, axis=0).repeat(zoom, axis=1) for frame in frames]
    pictures = [Image.fromarray(x[..., 0] if x.shape[-1] == 1 else x) for x in large]
    each = int(1000 * seconds / len(frames))
    durations = [each] * (len(frames) - 1) + [int(1000 * seconds)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=durations, loop=0)


def claim_folder(folder: Path) -> None:
    """Creates the folder and checks that it is writable, before the work of filling it.

    Raises:
      OSError: the folder cannot be created or written to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    probe = folder / ".probe"
    probe.touch()
    probe.unlink()


def zoom_for(pixels: UInt8[np.ndarray, "H W C"]) -> int:
    """The integer factor that enlarges the longer side to at most 640 pixels; 1 if it is longer."""
    return max(1, 640 // max(pixels.shape[:2]))
