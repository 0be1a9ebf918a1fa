"""Sources of pictures: each kind is one file, and lists its pictures in an order of its own.

my_pictures/                    a folder with all its sub-folders
my_pictures.zip                 a ZIP
shards/, shard-{000..127}.tar   tar shards in webdataset's naming
pictures.npz, pictures.npy      arrays
tfds:NAME, tfds:NAME:SPLIT      prepared by tensorflow-datasets
hf:NAME, hf:NAME:SPLIT          of the Hugging Face hub
"""

from pathlib import Path

from diffusion.data.sources.array_file import open_array_file
from diffusion.data.sources.folder import open_folder
from diffusion.data.sources.hugging_face import open_hugging_face
from diffusion.data.sources.labels import Labels
from diffusion.data.sources.source import Source
from diffusion.data.sources.tar_shards import holds_shards, open_tar_shards
from diffusion.data.sources.tfds import open_tfds
from diffusion.data.sources.zip_archive import open_zip

__all__ = ["Labels", "Source", "open_source"]

BY_SCHEME = {"tfds": open_tfds, "hf": open_hugging_face}
BY_SUFFIX = {
    ".zip": open_zip,
    ".tar": open_tar_shards,
    ".npz": open_array_file,
    ".npy": open_array_file,
}


def open_source(path: str) -> Source:
    """Opens a source of pictures by its path or name, and lists its pictures.

    Raises:
      OSError: it does not exist or cannot be opened.
      ValueError: it is of no kind that is known, is damaged, or has no pictures.
    """
    scheme, colon, name = path.partition(":")
    if colon and scheme in BY_SCHEME:
        if not name:
            raise ValueError(f"{path} has no name; give the dataset's, as in {scheme}:mnist.")
        source = BY_SCHEME[scheme](name)
    else:
        source = _open_path(Path(path).expanduser())
    if not source.names:
        raise ValueError(f"{path} holds no pictures.")
    return source


def _open_path(path: Path) -> Source:
    if "{" in path.name and not path.exists():
        return open_tar_shards(path)
    if path.is_dir():
        return open_tar_shards(path) if holds_shards(path) else open_folder(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give a folder or a file of pictures.")
    if path.suffix.lower() not in BY_SUFFIX:
        raise ValueError(
            f"{path} is no source of pictures; give a folder, or a file that ends in "
            f"{', '.join(BY_SUFFIX)}."
        )
    return BY_SUFFIX[path.suffix.lower()](path)
