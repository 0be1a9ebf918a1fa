"""The folder of a set of samples.

    png/00000.png ...   the images, and no other file
    grid.png            the first 400 of them
    denoising.gif       their way from noise, if asked for
    samples.npz         arr_0, the images, uint8 (N, H, W, C), and labels (N,)
    metadata.jsonl      the text of each image in png, where they were drawn from texts

Tools that compare folders of images, such as torch-fidelity and pytorch-fid, take png/; ADM's
evaluator takes samples.npz, and asks it for arr_0. Images that are neither grey nor RGB are written
to samples.npz alone.
"""

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from diffusion.data import images


def claim(folder: Path) -> None:
    """Creates the folder and checks that a set can be written to it, before the work of sampling.

    Raises:
      OSError: the folder cannot be created or written to.
      ValueError: `save` would remove files that are no samples: those of another name in png, or
        numbered images in the folder itself, if it holds no samples.npz and grid.png.
    """
    images.claim_folder(folder)
    if (pngs := folder / "png").exists():
        names = (path.name for path in pngs.iterdir() if not path.name.startswith("."))
        if foreign := sorted(name for name in names if not _is_numbered(name)):
            raise ValueError(
                f"{pngs} holds {foreign[0]}, which is no sample, and would be removed; move it, or "
                "choose another --out."
            )
    if (numbered := _beside(folder)) and not _is_set(folder):
        raise ValueError(
            f"{folder} holds {numbered[0].name}, but not samples.npz and grid.png, so the image is "
            "none that an earlier version has drawn, and would be removed; choose another --out."
        )


def save(
    folder: Path,
    pixels: UInt8[np.ndarray, "N ... C"],
    labels: Int[np.ndarray, "N"],
    frames: Sequence[UInt8[np.ndarray, "H W C"]] = (),
    texts: Sequence[str] = (),
) -> None:
    """Replaces the set in the folder by this one.

    A call that is killed before the new set is complete leaves the old one as it was. The images of
    earlier versions, which lay beside grid.png, are removed with it.

    Args:
      frames: of denoising.gif; none for no animation.
      texts: text of each image; none for images without.
    """
    new = folder / ".new"
    shutil.rmtree(new, ignore_errors=True)  # of a call that was killed
    new.mkdir()
    np.savez(new / "samples.npz", arr_0=pixels, labels=labels)
    if images.can_be_png(pixels.shape[1:]):
        (new / "png").mkdir()
        for index, image in enumerate(pixels):
            images.save_png(new / "png" / f"{index:05d}.png", image)
        canvas = images.grid(pixels[:400])
        images.save_png(new / "grid.png", canvas, zoom=images.zoom_for(canvas))
    if texts:
        lines = (
            {"file_name": f"png/{index:05d}.png", "text": text} for index, text in enumerate(texts)
        )
        (new / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if frames:
        images.save_gif(new / "denoising.gif", list(frames))
    if (folder / "png").exists():
        shutil.rmtree(folder / "png")
    for image in _beside(folder):
        image.unlink()
    for name in ("png", "grid.png", "denoising.gif", "metadata.jsonl", "samples.npz"):
        if (new / name).exists():
            (new / name).replace(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    new.rmdir()


def _beside(folder: Path) -> list[Path]:
    """The numbered images in the folder itself, where earlier versions wrote them."""
    return sorted(path for path in folder.iterdir() if _is_numbered(path.name))


def _is_set(folder: Path) -> bool:
    return (folder / "samples.npz").exists() and (folder / "grid.png").exists()


def _is_numbered(name: str) -> bool:
    return name.endswith(".png") and len(name) >= len("00000.png") and name[:-4].isdecimal()
