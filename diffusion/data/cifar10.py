"""CIFAR-10 through tensorflow-datasets' own builder, without TensorFlow.

The builder downloads the archive (or uses the user's copy), checks its sha256 and writes
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
from dataclasses import dataclass
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
    """

    batch_size: int = 128
    path: str = "~/tensorflow_datasets"
    manual_dir: str | None = None
    labelled: bool = False

    @property
    def spec(self) -> Spec:
        return image_spec((32, 32, 3), labelled=self.labelled)

    @property
    def num_classes(self) -> int | None:
        return 10 if self.labelled else None

    def load(self) -> ImageArrays:
        """The training images, prepared on first use.

        Raises:
          FileNotFoundError: manual_dir does not hold the archive.
          ConnectionError: the download failed; the message says where to put the archive.
          ValueError: the archive is damaged, or the dataset in `path` needs TensorFlow to read.
        """
        data_dir = Path(self.path).expanduser()
        data_dir.mkdir(parents=True, exist_ok=True)  # fails early if it is not writable
        builder = _builder(data_dir)
        if not builder.is_prepared():
            _prepare(builder, self.manual_dir)
        pixels, labels = _decoded(builder)
        names = tuple(builder.info.features["label"].names)
        return ImageArrays(pixels, labels if self.labelled else None, names, self.batch_size)


def _builder(data_dir: Path) -> Any:
    with from_extra("train"):  # imported here because that takes two seconds
        import tensorflow_datasets as tfds
        from PIL import Image
        from tensorflow_datasets.image_classification import cifar

    class WithoutTensorFlow(cifar.Cifar10, skip_registration=True):
        """The original builder, but it reads the archive and encodes PNG without TensorFlow.

        tensorflow-datasets uses TensorFlow for both (tensorflow/datasets#11058).
        """

        name = "cifar10"
        url_infos = cifar.Cifar10.url_infos

        def _split_generators(self, dl_manager):
            archive = dl_manager.download(self._cifar_info.url)
            members = self._cifar_info
            with tarfile.open(archive) as tar:
                names = _read(tar, members.prefix + members.label_files[0]).decode().split("\n")
                train = [_read(tar, members.prefix + file) for file in members.train_files]
                test = [_read(tar, members.prefix + file) for file in members.test_files]
            features: Any = self.info.features
            features["label"].names = [name for name in names if name]
            return {
                "train": self._generate_examples("train_", train),
                "test": self._generate_examples("test_", test),
            }

        def _generate_examples(self, split_prefix, filepaths):
            records = np.frombuffer(b"".join(filepaths), np.uint8).reshape(-1, 1 + 3 * 32 * 32)
            for index, record in enumerate(records):
                pixels = record[1:].reshape(3, 32, 32).transpose(1, 2, 0)
                yield (
                    index,
                    {
                        "id": f"{split_prefix}{index:05d}",
                        "image": Image.fromarray(pixels),
                        "label": int(record[0]),
                    },
                )

    builder: Any = WithoutTensorFlow(data_dir=data_dir, file_format="array_record")
    if builder.is_prepared() and builder.info.file_format != tfds.core.FileFormat.ARRAY_RECORD:
        raise ValueError(
            f"{builder.data_path} holds CIFAR-10 as {builder.info.file_format.value} files, which "
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
        f"CIFAR-10 is not in {builder.data_path}, and {url} cannot be reached; download "
        f"{expected.filename} (sha256 {expected.checksum}) from that address, put it into a folder "
        "DIR and add --data.manual-dir DIR."
    )
    if manual_dir is None and not _reachable(url):
        raise offline
    if not sys.stderr.isatty():
        tfds.disable_progress_bar()
    print(f"Preparing CIFAR-10 in {builder.data_path} (once) ...", flush=True)
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


def _decoded(builder: Any) -> tuple[np.ndarray, np.ndarray]:
    """The training split as (N, 32, 32, 3) uint8 and (N,) int32, from the cache if it exists."""
    cache = Path(builder.data_path) / "train_pixels.npz"
    if cache.exists():
        try:
            with open(cache, "rb") as file, np.load(file, allow_pickle=False) as arrays:
                return arrays["pixels"], arrays["labels"]
        except (zipfile.BadZipFile, ValueError, EOFError, KeyError):
            print(f"{cache} is damaged; writing it again.", file=sys.stderr)
    source = builder.as_data_source("train")
    examples = sorted(source, key=lambda example: example["id"])  # the archive's own order
    pixels = np.stack([example["image"] for example in examples])
    labels = np.array([example["label"] for example in examples], np.int32)
    partial = cache.with_name(f".{os.getpid()}.{cache.name}")
    with open(partial, "wb") as file:
        np.savez(file, pixels=pixels, labels=labels)
    partial.replace(cache)  # atomic
    return pixels, labels
