"""CIFAR-10 and CIFAR-100 through tensorflow-datasets' own builders, without TensorFlow.

A builder downloads its archive (or uses the user's copy), checks its sha256 and writes
array_record files, which any program can read by `tfds.data_source`. The images are then decoded
once, and cached as a uint8 array in the same folder, which later runs load in a fraction of a
second.

Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images".
"""

import os
import sys
import tarfile
import threading
import urllib.request
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from diffusion.data.arrays import ImageArrays
from diffusion.data.dataset import Spec, image_spec
from diffusion.optional import from_extra

CONNECT_SECONDS = 6.0


@dataclass(frozen=True)
class Cifar10:
    """50,000 real 32x32 colour images in ten classes (the training split).

    Attributes:
      batch_size: images in a batch, over all devices.
      path: folder in which tensorflow-datasets stores prepared datasets.
      manual_dir: folder that holds cifar-10-binary.tar.gz; None downloads it.
      labelled: whether batches include the class, which makes the network class-conditional.
      split: "train", or "test" for the 10,000 others.
    Raises:
      ValueError: there is no such split.
    """

    batch_size: int = 128
    path: str = "~/tensorflow_datasets"
    manual_dir: str | None = None
    labelled: bool = False
    split: str = "train"

    def __post_init__(self):
        _check_split(self.split)

    @property
    def held_out(self) -> "Cifar10":
        return replace(self, split="test")

    @property
    def spec(self) -> Spec:
        return image_spec((32, 32, 3), labelled=self.labelled)

    @property
    def num_classes(self) -> int | None:
        return 10 if self.labelled else None

    def load(self) -> ImageArrays:
        """The images, prepared on first use; for errors see `_load`."""
        label = "label" if self.labelled else None
        return _load("Cifar10", self.path, self.manual_dir, label, self.split, self.batch_size)


@dataclass(frozen=True)
class Cifar100:
    """50,000 real 32x32 colour images in a hundred classes (the training split).

    Attributes:
      batch_size: images in a batch, over all devices.
      path: folder in which tensorflow-datasets stores prepared datasets.
      manual_dir: folder that holds cifar-100-binary.tar.gz; None downloads it.
      labelled: whether batches include the class.
      coarse: whether the classes are the 20 superclasses.
      split: "train", or "test" for the 10,000 others.
    Raises:
      ValueError: there is no such split.
    """

    batch_size: int = 128
    path: str = "~/tensorflow_datasets"
    manual_dir: str | None = None
    labelled: bool = False
    coarse: bool = False
    split: str = "train"

    def __post_init__(self):
        _check_split(self.split)

    @property
    def held_out(self) -> "Cifar100":
        return replace(self, split="test")

    @property
    def spec(self) -> Spec:
        return image_spec((32, 32, 3), labelled=self.labelled)

    @property
    def num_classes(self) -> int | None:
        return (20 if self.coarse else 100) if self.labelled else None

    def load(self) -> ImageArrays:
        """The images, prepared on first use; for errors see `_load`."""
        label = ("coarse_label" if self.coarse else "label") if self.labelled else None
        return _load("Cifar100", self.path, self.manual_dir, label, self.split, self.batch_size)


def _check_split(split: str) -> None:
    if split not in ("train", "test"):
        raise ValueError(f"split={split!r}; use train or test.")


def _load(
    kind: str, path: str, manual_dir: str | None, label: str | None, split: str, batch_size: int
) -> ImageArrays:
    """The images of a split of one of the two datasets.

    Args:
      kind: "Cifar10" or "Cifar100".
      label: the feature that holds the class, or None.
    Raises:
      FileNotFoundError: manual_dir does not hold the archive.
      ConnectionError: the download failed; the message says where to put the archive.
      ValueError: the archive is damaged, or the dataset in `path` needs TensorFlow to read.
    """
    data_dir = Path(path).expanduser()
    data_dir.mkdir(parents=True, exist_ok=True)  # fails early if it is not writable
    builder = _builder(kind, data_dir)
    if not builder.is_prepared():
        _prepare(builder, manual_dir)
    arrays = _decoded(builder, split)
    names = tuple(builder.info.features[label or "label"].names)
    return ImageArrays(arrays["pixels"], arrays[label] if label else None, names, batch_size)


def _builder(kind: str, data_dir: Path) -> Any:
    with from_extra("train"):  # imported here because that takes two seconds
        import tensorflow_datasets as tfds
        from PIL import Image
        from tensorflow_datasets.image_classification import cifar

    original: Any = getattr(cifar, kind)

    class WithoutTensorFlow(original, skip_registration=True):  # type: ignore[call-arg]
        """The original builder, but it reads the archive and encodes PNG without TensorFlow.

        tensorflow-datasets uses TensorFlow for both (tensorflow/datasets#11058).
        """

        name = kind.lower()
        url_infos = original.url_infos

        def _split_generators(self, dl_manager):
            archive = dl_manager.download(self._cifar_info.url)
            members = self._cifar_info
            with tarfile.open(archive) as tar:
                names = [
                    _read(tar, members.prefix + file).decode().split()
                    for file in members.label_files
                ]
                train = [_read(tar, members.prefix + file) for file in members.train_files]
                test = [_read(tar, members.prefix + file) for file in members.test_files]
            features: Any = self.info.features
            for key, of_key in zip(members.label_keys, names, strict=True):
                features[key].names = of_key
            return {
                "train": self._generate_examples("train_", train),
                "test": self._generate_examples("test_", test),
            }

        def _generate_examples(self, split_prefix, filepaths):
            keys = self._cifar_info.label_keys
            size = len(keys) + 3 * 32 * 32
            records = np.frombuffer(b"".join(filepaths), np.uint8).reshape(-1, size)
            for index, record in enumerate(records):
                pixels = record[len(keys) :].reshape(3, 32, 32).transpose(1, 2, 0)
                labels = {key: int(value) for key, value in zip(keys, record, strict=False)}
                name = f"{split_prefix}{index:05d}"
                yield index, {"id": name, "image": Image.fromarray(pixels), **labels}

    builder: Any = WithoutTensorFlow(data_dir=data_dir, file_format="array_record")
    if builder.is_prepared() and builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise ValueError(
            f"{builder.data_path} holds {kind} as {builder.info.file_format.value} files, which "
            "only TensorFlow can read; choose another folder with --data.path."
        )
    return builder


def _read(tar: tarfile.TarFile, member: str) -> bytes:
    file = tar.extractfile(member)
    assert file is not None, member  # the archive's checksum is right, so the file exists
    return file.read()


def _prepare(builder: Any, manual_dir: str | None) -> None:
    import requests
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download.download_manager import NonMatchingChecksumError
    from tensorflow_datasets.core.download.util import DownloadError

    url = builder._cifar_info.url
    expected = builder.url_infos[url]
    if manual_dir is not None:
        manual_dir = str(Path(manual_dir).expanduser())
        if not (Path(manual_dir) / expected.filename).is_file():
            raise FileNotFoundError(
                f"--data.manual-dir {manual_dir} holds no {expected.filename}; "
                f"get it from {url} (sha256 {expected.checksum})."
            )
    offline = ConnectionError(
        f"{builder.name} is not in {builder.data_path}, and {url} cannot be reached; download "
        f"{expected.filename} (sha256 {expected.checksum}) from that address, put it into a folder "
        "DIR, and give that to train.py once by --data.manual-dir DIR."
    )
    if manual_dir is None and not _reachable(url):
        raise offline
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    print(f"Preparing {builder.name} in {builder.data_path} (once) ...", flush=True)
    try:
        builder.download_and_prepare(
            download_config=tfds.download.DownloadConfig(
                manual_dir=manual_dir, try_download_gcs=False
            )
        )
    except (DownloadError, requests.RequestException) as error:  # the connection was lost
        raise offline from error
    except NonMatchingChecksumError:
        raise ValueError(
            f"the archive {expected.filename} is damaged or a different file: its sha256 is not "
            f"{expected.checksum}; download it again from {url}."
        ) from None


def _reachable(url: str) -> bool:
    """Whether the server answers within CONNECT_SECONDS; uses the user's proxy if there is one."""
    answered = threading.Event()

    def ask():
        try:
            request = urllib.request.Request(url, method="HEAD")
            urllib.request.urlopen(request, timeout=CONNECT_SECONDS).close()
            answered.set()
        except OSError:  # no network, unknown host, or a status such as 403 or 404
            pass

    # in a thread, because the DNS look-up ignores the connection's time-out
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS)
    return answered.is_set()


def _decoded(builder: Any, split: str) -> dict[str, np.ndarray]:
    """A split: pixels uint8 (N, 32, 32, 3), and labels by key; cached."""
    keys = builder._cifar_info.label_keys
    cache = Path(builder.data_path) / f"{split}_pixels.npz"
    if cache.exists():
        try:
            with open(cache, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in ("pixels", *keys)}
        except (zipfile.BadZipFile, ValueError, EOFError, KeyError):
            print(f"{cache} is damaged or of another version; writing it again.", file=sys.stderr)
    source = builder.as_data_source(split)
    examples = sorted(source, key=lambda example: example["id"])  # the archive's own order
    labels = {key: np.array([example[key] for example in examples], np.int32) for key in keys}
    found = {"pixels": np.stack([example["image"] for example in examples]), **labels}
    partial = cache.with_name(f".{os.getpid()}.{cache.name}")
    with open(partial, "wb") as file:
        np.savez(file, **found)
    partial.replace(cache)  # atomic
    return found
